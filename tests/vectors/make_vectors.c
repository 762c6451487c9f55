/* Writes crypto.json, delta.json and audit.json into the folder given. */
#include <stdio.h>

#include "crypto/keys.h"
#include "vectors/vectors.h"

static int dump(json_t *v, const char *folder, const char *name)
{
    char path[4096];
    int rc;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    rc = json_dump_file(v, path, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(v);
    if (rc != 0)
        fprintf(stderr, "cannot write \"%s\"\n", path);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_vectors FOLDER\n");
        return 2;
    }
    if (cs_crypto_init(NULL) < 0)
        return 1;
    return dump(cs_vectors_crypto(), argv[1], "crypto.json") != 0 ||
           dump(cs_vectors_delta(), argv[1], "delta.json") != 0 || dump(cs_vectors_audit(), argv[1], "audit.json") != 0;
}
