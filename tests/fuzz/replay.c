/* Runs a fuzz target over the files given, and over every file in the folders given. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "fuzz/fuzz.h"

enum { INPUT_MAX = 1 << 20 };

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *all = malloc(INPUT_MAX), *exact;
    size_t n;

    if (f == NULL || all == NULL) {
        fprintf(stderr, "cannot read \"%s\"\n", path);
        free(all);
        if (f != NULL)
            fclose(f);
        return 1;
    }
    n = fread(all, 1, INPUT_MAX, f);
    fclose(f);
    exact = malloc(n != 0 ? n : 1); /* its end is the input's, so that a sanitizer sees a read behind it */
    if (exact != NULL) {
        memcpy(exact, all, n);
        LLVMFuzzerTestOneInput(exact, n);
    }
    free(exact);
    free(all);
    return exact == NULL;
}

static int run_folder(DIR *dir, const char *path, size_t *nfiles)
{
    struct dirent *e;
    char file[4096];
    int rc = 0;

    while (rc == 0 && (e = readdir(dir)) != NULL) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        rc = run_file(file);
        ++*nfiles;
    }
    return rc;
}

int main(int argc, char **argv)
{
    size_t nfiles = 0;
    int rc = 0;

    for (int i = 1; i < argc && rc == 0; i++) {
        DIR *dir = opendir(argv[i]);

        if (dir == NULL) {
            rc = run_file(argv[i]);
            nfiles++;
        } else {
            rc = run_folder(dir, argv[i], &nfiles);
            closedir(dir);
        }
    }
    printf("%zu inputs\n", nfiles);
    return rc != 0 || nfiles == 0;
}
