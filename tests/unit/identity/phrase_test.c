#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "crypto/keys.h"
#include "identity/phrase.h"

/* Of the secret 0, 1, 2 … 31. */
struct sample {
    uint8_t secret[32];
    char text[CS_PHRASE_TEXT];
    char word[CS_PHRASE_WORDS][5];
};

static void sample(struct sample *s)
{
    for (size_t i = 0; i < 32; i++)
        s->secret[i] = (uint8_t)i;
    cs_phrase_text(s->text, s->secret);
    for (size_t i = 0; i < CS_PHRASE_WORDS; i++) {
        memcpy(s->word[i], s->text + 5 * i, 4);
        s->word[i][4] = '\0';
    }
}

static void join(char out[256], const struct sample *s)
{
    size_t n = 0;

    for (size_t i = 0; i < CS_PHRASE_WORDS; i++)
        n += (size_t)snprintf(out + n, 256 - n, "%s%s", i == 0 ? "" : " ", s->word[i]);
}

static int parse(const char *text, uint8_t secret[32], struct cs_phrase_fix *fix)
{
    struct cs_error err = { 0 };
    int rc = cs_phrase_parse(secret, text, fix, &err);

    assert_true(rc == CS_OK || (rc == CS_ECORRUPT && err.msg[0] != '\0'));
    return rc;
}

static void the_text(void **state)
{
    uint8_t secret[32] = { 0 }, hash[32];
    char text[CS_PHRASE_TEXT];
    struct sample s;

    (void)state;
    cs_phrase_text(text, secret);
    assert_int_equal(strlen(text), CS_PHRASE_TEXT - 1);
    for (size_t i = 0; i < 21; i++)
        assert_memory_equal(text + 5 * i, "baba ", 5);
    memset(secret, 0xff, 32);
    cs_phrase_text(text, secret);
    for (size_t i = 0; i < 21; i++)
        assert_memory_equal(text + 5 * i, "zuzu ", 5);
    /* 000102: 0000 00 0000 00, 0001 00 0000 10 */
    sample(&s);
    assert_memory_equal(s.text, "baba dabo ", 10);
    /* the last two words: 24 bits of the check */
    cs_hash_label("phrase check", cs_slice(s.secret, 32), hash);
    assert_int_equal(s.word[23][0], "bdfghjklmnprstvz"[hash[2] & 15]);
    assert_int_equal(s.word[23][1], "aiou"[hash[3] >> 6]);
    assert_int_equal(s.word[23][2], "bdfghjklmnprstvz"[hash[3] >> 2 & 15]);
    assert_int_equal(s.word[23][3], "aiou"[hash[3] & 3]);
}

static void any_case_and_spacing(void **state)
{
    char shout[CS_PHRASE_TEXT], tight[CS_PHRASE_TEXT] = { 0 }, wide[3 * CS_PHRASE_TEXT] = { 0 };
    struct cs_phrase_fix fix;
    uint8_t secret[32];
    struct sample s;
    size_t n = 0, w = 0;

    (void)state;
    sample(&s);
    for (size_t i = 0; i < sizeof shout; i++)
        shout[i] = s.text[i] >= 'a' ? (char)(s.text[i] - 'a' + 'A') : s.text[i];
    for (size_t i = 0; s.text[i] != '\0'; i++) {
        if (s.text[i] != ' ')
            tight[n++] = s.text[i];
        wide[w++] = s.text[i];
        if (i % 3 == 0)
            wide[w++] = "\t\n \r"[i % 4];
    }
    assert_int_equal(parse(s.text, secret, &fix), CS_OK);
    assert_memory_equal(secret, s.secret, 32);
    assert_false(fix.found);
    memset(secret, 0, 32);
    assert_int_equal(parse(shout, secret, &fix), CS_OK);
    assert_memory_equal(secret, s.secret, 32);
    memset(secret, 0, 32);
    assert_int_equal(parse(tight, secret, &fix), CS_OK);
    assert_memory_equal(secret, s.secret, 32);
    memset(secret, 0, 32);
    assert_int_equal(parse(wide, secret, &fix), CS_OK);
    assert_memory_equal(secret, s.secret, 32);
}

static void assert_fixed(const struct sample *bent, const struct sample *right, unsigned word, bool swapped)
{
    uint8_t secret[32] = { 0 }, zero[32] = { 0 };
    struct cs_phrase_fix fix;
    char text[256];

    join(text, bent);
    assert_int_equal(parse(text, secret, &fix), CS_ECORRUPT);
    assert_memory_equal(secret, zero, 32); /* nothing is taken unasked */
    assert_true(fix.found);
    assert_int_equal(fix.word, word);
    assert_int_equal(fix.swapped, swapped);
    assert_memory_equal(fix.secret, right->secret, 32);
}

static void one_wrong_word_is_found(void **state)
{
    static const size_t places[] = { 0, 7, 20, 21, 22, 23 };
    struct sample s, bent;

    (void)state;
    sample(&s);
    for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
        size_t i = places[k];

        bent = s;
        bent.word[i][2] = bent.word[i][2] == 'z' ? 'b' : 'z'; /* another word */
        assert_fixed(&bent, &s, (unsigned)i + 1, false);
    }
    for (size_t i = 0; i < CS_PHRASE_WORDS; i++) {
        bent = s;
        bent.word[i][1] = 'e'; /* none at all */
        assert_fixed(&bent, &s, (unsigned)i + 1, false);
        bent.word[i][3] = '\0'; /* and too short */
        assert_fixed(&bent, &s, (unsigned)i + 1, false);
    }
}

static void swapped_neighbours_are_found(void **state)
{
    static const size_t places[] = { 0, 11, 21, 22 };
    struct sample s, bent;

    (void)state;
    sample(&s);
    for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
        size_t i = places[k];

        bent = s;
        memcpy(bent.word[i], s.word[i + 1], 5);
        memcpy(bent.word[i + 1], s.word[i], 5);
        assert_fixed(&bent, &s, (unsigned)i + 1, true);
    }
}

static void more_is_not_guessed(void **state)
{
    static const char *const wrong[] = { "", " ", "baba", "\xff\xfe" };
    struct cs_phrase_fix fix;
    struct sample s, bent;
    uint8_t secret[32];
    char text[256], *big;

    (void)state;
    sample(&s);
    bent = s;
    bent.word[3][0] = bent.word[3][0] == 'z' ? 'b' : 'z';
    bent.word[9][0] = bent.word[9][0] == 'z' ? 'b' : 'z';
    join(text, &bent);
    assert_int_equal(parse(text, secret, &fix), CS_ECORRUPT);
    assert_false(fix.found);
    bent.word[3][0] = 'x';
    join(text, &bent);
    assert_int_equal(parse(text, secret, &fix), CS_ECORRUPT);
    assert_false(fix.found);
    bent.word[9][0] = 'x';
    join(text, &bent);
    assert_int_equal(parse(text, secret, &fix), CS_ECORRUPT);
    assert_false(fix.found);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(parse(wrong[i], secret, &fix), CS_ECORRUPT);
    /* a word fewer, a word more, and no end of them */
    join(text, &s);
    text[CS_PHRASE_TEXT - 1 - 5] = '\0';
    assert_int_equal(parse(text, secret, &fix), CS_ECORRUPT);
    join(text, &s);
    memcpy(text + CS_PHRASE_TEXT - 1, " baba", 6);
    assert_int_equal(parse(text, secret, &fix), CS_ECORRUPT);
    big = test_malloc(100001);
    memset(big, 'b', 100000);
    big[100000] = '\0';
    assert_int_equal(parse(big, secret, &fix), CS_ECORRUPT);
    test_free(big);
}

/* No single changed letter is taken for right. */
static void every_letter_counts(void **state)
{
    struct cs_phrase_fix fix;
    struct sample s;
    uint8_t secret[32];

    (void)state;
    sample(&s);
    for (size_t i = 0; s.text[i] != '\0'; i += 7) {
        char was = s.text[i];

        s.text[i] = was == ' ' ? 'q' : was == 'a' ? 'u' : was == 'b' ? 'z' : strchr("aiou", was) ? 'a' : 'b';
        assert_int_equal(parse(s.text, secret, &fix), CS_ECORRUPT);
        s.text[i] = was;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text),
        cmocka_unit_test(any_case_and_spacing),
        cmocka_unit_test(one_wrong_word_is_found),
        cmocka_unit_test(swapped_neighbours_are_found),
        cmocka_unit_test(more_is_not_guessed),
        cmocka_unit_test(every_letter_counts),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("phrase", tests, NULL, NULL);
}
