/* What people carry from one device to another: invite codes, as bytes and as typed, and recovery phrases. The first
 * byte chooses; of a code's bytes it can ask for a right check, which would stop a fuzzer at the door. */
#include "fuzz/fuzz.h"

#include <string.h>

#include "crypto/hash.h"
#include "crypto/keys.h"
#include "identity/code.h"
#include "identity/phrase.h"

enum { BYTES = 0, CHECKED = 1, TYPED = 2, PHRASE = 3, TEXT_MAX = 4096 };

static void code_again(const struct cs_invite_code *c)
{
    struct cs_buf bytes = { 0 }, text = { 0 };
    struct cs_invite_code again;

    FUZZ_CHECK(memchr(c->hub, 0, sizeof c->hub) != NULL && c->hub[0] != 0);
    FUZZ_CHECK(cs_invite_code_encode(&bytes, c, NULL) == CS_OK);
    FUZZ_CHECK(cs_invite_code_decode(&again, cs_buf_slice(&bytes), NULL) == CS_OK);
    FUZZ_CHECK(strcmp(again.hub, c->hub) == 0 && memcmp(again.secret, c->secret, sizeof c->secret) == 0);
    FUZZ_CHECK(cs_invite_code_text(&text, c, NULL) == CS_OK);
    cs_buf_put_u8(&text, 0);
    FUZZ_CHECK(cs_invite_code_parse(&again, (const char *)text.data, NULL) == CS_OK);
    FUZZ_CHECK(cs_uuid_cmp(&again.workspace, &c->workspace) == 0 && again.tls == c->tls && again.has_pin == c->has_pin);
    cs_buf_free(&bytes);
    cs_buf_free(&text);
}

static void code_bytes(const uint8_t *data, size_t size, bool checked)
{
    struct cs_buf bytes = { 0 };
    struct cs_invite_code c;
    struct cs_error err;
    uint8_t check[32];
    int rc;

    cs_buf_put(&bytes, data, size);
    if (checked) {
        cs_hash_label("code check", cs_buf_slice(&bytes), check);
        cs_buf_put(&bytes, check, 4);
    }
    rc = cs_invite_code_decode(&c, cs_buf_slice(&bytes), &err);
    FUZZ_CHECK(rc == CS_OK || ((rc == CS_ECORRUPT || rc == CS_EVERSION) && err.msg[0] != 0));
    if (rc == CS_OK)
        code_again(&c);
    cs_buf_free(&bytes);
}

static void phrase(const char *text)
{
    char again[CS_PHRASE_TEXT];
    struct cs_phrase_fix fix;
    uint8_t secret[32], same[32];
    struct cs_error err;
    int rc = cs_phrase_parse(secret, text, &fix, &err);

    FUZZ_CHECK(rc == CS_OK || (rc == CS_ECORRUPT && err.msg[0] != 0));
    if (rc != CS_OK && !fix.found)
        return;
    if (rc != CS_OK) {
        FUZZ_CHECK(fix.word >= 1 && fix.word <= CS_PHRASE_WORDS);
        memcpy(secret, fix.secret, sizeof secret);
    }
    cs_phrase_text(again, secret);
    FUZZ_CHECK(cs_phrase_parse(same, again, &fix, &err) == CS_OK && memcmp(same, secret, sizeof same) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char text[TEXT_MAX];
    struct cs_invite_code c;

    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    if (size == 0 || size > TEXT_MAX)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    switch (data[0] & 3) {
    case BYTES:
    case CHECKED:
        code_bytes(data + 1, size - 1, (data[0] & 3) == CHECKED);
        break;
    case TYPED:
        if (cs_invite_code_parse(&c, text, NULL) == CS_OK)
            code_again(&c);
        break;
    default:
        phrase(text);
    }
    return 0;
}
