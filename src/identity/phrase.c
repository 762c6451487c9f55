#include "identity/phrase.h"

#include "crypto/keys.h"

enum {
    CHECK_LEN = 4,
    BYTES = 32 + CHECK_LEN,
    WORD_BITS = 12,
    WORD_VALUES = 1 << WORD_BITS,
    WORD_LEN = 4,
    BAD_WORD = WORD_VALUES,
    TEXT_MAX = 4096
};

static const char consonants[] = "bdfghjklmnprstvz";
static const char vowels[] = "aiou";

/* A word is BAD_WORD where what was typed is none. */
struct words {
    uint16_t w[CS_PHRASE_WORDS];
};

static void check_bytes(const uint8_t secret[32], uint8_t out[CHECK_LEN])
{
    uint8_t hash[CS_HASH_LEN];

    cs_hash_label("phrase check", cs_slice(secret, 32), hash);
    memcpy(out, hash, CHECK_LEN);
    cs_wipe(hash, sizeof hash);
}

/* Two words are three bytes. */
static void unpack(struct words *out, const uint8_t bytes[BYTES])
{
    for (size_t i = 0; i < CS_PHRASE_WORDS / 2; i++) {
        const uint8_t *p = bytes + 3 * i;

        out->w[2 * i] = (uint16_t)(p[0] << 4 | p[1] >> 4);
        out->w[2 * i + 1] = (uint16_t)((p[1] & 15) << 8 | p[2]);
    }
}

/* The secret, if the check is right. */
static bool pack(const struct words *in, uint8_t secret[32])
{
    uint8_t bytes[BYTES], check[CHECK_LEN];
    bool ok;

    for (size_t i = 0; i < CS_PHRASE_WORDS / 2; i++) {
        uint16_t a = in->w[2 * i], b = in->w[2 * i + 1];

        bytes[3 * i] = (uint8_t)(a >> 4);
        bytes[3 * i + 1] = (uint8_t)(a << 4 | b >> 8);
        bytes[3 * i + 2] = (uint8_t)b;
    }
    check_bytes(bytes, check);
    ok = cs_secret_eq(check, bytes + 32, CHECK_LEN);
    if (ok)
        memcpy(secret, bytes, 32);
    cs_wipe(bytes, sizeof bytes);
    cs_wipe(check, sizeof check);
    return ok;
}

void cs_phrase_text(char out[CS_PHRASE_TEXT], const uint8_t secret[32])
{
    uint8_t bytes[BYTES];
    struct words words;

    memcpy(bytes, secret, 32);
    check_bytes(secret, bytes + 32);
    unpack(&words, bytes);
    for (size_t i = 0; i < CS_PHRASE_WORDS; i++) {
        uint16_t w = words.w[i];

        *out++ = consonants[w >> 8 & 15];
        *out++ = vowels[w >> 6 & 3];
        *out++ = consonants[w >> 2 & 15];
        *out++ = vowels[w & 3];
        *out++ = i + 1 < CS_PHRASE_WORDS ? ' ' : '\0';
    }
    cs_wipe(bytes, sizeof bytes);
    cs_wipe(&words, sizeof words);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static unsigned letter(const char *of, char c)
{
    const char *at;

    if (c >= 'A' && c <= 'Z')
        c = (char)(c - 'A' + 'a');
    at = c == '\0' ? NULL : strchr(of, c);
    return at == NULL ? BAD_WORD : (unsigned)(at - of);
}

static uint16_t word_of(const char *s, size_t len)
{
    unsigned a, b, c, d;

    if (len != WORD_LEN)
        return BAD_WORD;
    a = letter(consonants, s[0]);
    b = letter(vowels, s[1]);
    c = letter(consonants, s[2]);
    d = letter(vowels, s[3]);
    return a == BAD_WORD || b == BAD_WORD || c == BAD_WORD || d == BAD_WORD ? BAD_WORD
                                                                            : (uint16_t)(a << 8 | b << 6 | c << 2 | d);
}

/* Every four letters are a word, however they are spaced; where a letter is missing or too many, the spaces tell the
 * words. False: there are not 24 either way. */
static bool split(struct words *out, const char *text)
{
    char letters[CS_PHRASE_WORDS * WORD_LEN];
    size_t nletters = 0, nwords = 0;
    const char *end;

    for (const char *p = text; *p != '\0'; p = end) {
        while (is_space(*p))
            p++;
        for (end = p; *end != '\0' && !is_space(*end); end++, nletters++)
            if (nletters < sizeof letters)
                letters[nletters] = *end;
        if (end == p)
            break;
        if (nwords < CS_PHRASE_WORDS)
            out->w[nwords] = word_of(p, (size_t)(end - p));
        nwords++;
    }
    for (size_t i = 0; nletters == sizeof letters && i < CS_PHRASE_WORDS; i++)
        out->w[i] = word_of(letters + i * WORD_LEN, WORD_LEN);
    cs_wipe(letters, sizeof letters);
    return nletters == sizeof letters || nwords == CS_PHRASE_WORDS;
}

/* Notes a right phrase; a second one makes the first no better than a guess. */
static void hit(struct cs_phrase_fix *fix, size_t *hits, const struct words *words, size_t i, bool swapped)
{
    uint8_t secret[32];

    if (!pack(words, secret))
        return;
    if (++*hits == 1) {
        fix->word = (unsigned)i + 1;
        fix->swapped = swapped;
        memcpy(fix->secret, secret, 32);
    }
    cs_wipe(secret, sizeof secret);
}

static void try_values(struct cs_phrase_fix *fix, size_t *hits, struct words *words, size_t i)
{
    uint16_t typed = words->w[i];

    for (unsigned v = 0; v < WORD_VALUES; v++) {
        words->w[i] = (uint16_t)v;
        if (v != typed)
            hit(fix, hits, words, i, false);
    }
    words->w[i] = typed;
}

static void try_swap(struct cs_phrase_fix *fix, size_t *hits, struct words *words, size_t i)
{
    uint16_t a = words->w[i], b = words->w[i + 1];

    if (a == b)
        return;
    words->w[i] = b;
    words->w[i + 1] = a;
    hit(fix, hits, words, i, true);
    words->w[i] = a;
    words->w[i + 1] = b;
}

/* bad: the word that is none, or CS_PHRASE_WORDS. */
static void search(struct cs_phrase_fix *fix, struct words *words, size_t bad)
{
    size_t hits = 0;

    for (size_t i = 0; i < CS_PHRASE_WORDS; i++) {
        if (bad == CS_PHRASE_WORDS || i == bad)
            try_values(fix, &hits, words, i);
        if (bad == CS_PHRASE_WORDS && i + 1 < CS_PHRASE_WORDS)
            try_swap(fix, &hits, words, i);
    }
    if (hits == 1)
        fix->found = true;
    else
        cs_wipe(fix, sizeof *fix);
}

static int judge(uint8_t secret[32], struct words *words, struct cs_phrase_fix *fix, struct cs_error *err)
{
    size_t bad = CS_PHRASE_WORDS, nbad = 0;

    for (size_t i = CS_PHRASE_WORDS; i-- > 0;)
        if (words->w[i] == BAD_WORD) {
            bad = i;
            nbad++;
        }
    if (nbad > 1)
        return cs_fail(err, CS_ECORRUPT, "%zu words of the recovery phrase are mistyped, the first is word %zu", nbad,
                       bad + 1);
    if (nbad == 0 && pack(words, secret))
        return CS_OK;
    search(fix, words, bad);
    if (!fix->found && nbad == 0)
        return cs_fail(err, CS_ECORRUPT, "the recovery phrase has more than one mistake; compare every word");
    if (!fix->found)
        return cs_fail(err, CS_ECORRUPT, "word %zu of the recovery phrase is mistyped, and not the only one", bad + 1);
    if (fix->swapped)
        return cs_fail(err, CS_ECORRUPT, "words %u and %u of the recovery phrase are swapped", fix->word,
                       fix->word + 1);
    return cs_fail(err, CS_ECORRUPT, "word %u of the recovery phrase is wrong", fix->word);
}

int cs_phrase_parse(uint8_t secret[32], const char *text, struct cs_phrase_fix *fix, struct cs_error *err)
{
    struct words words = { { 0 } };
    int rc;

    *fix = (struct cs_phrase_fix){ 0 };
    if (strnlen(text, TEXT_MAX) == TEXT_MAX || !split(&words, text))
        rc = cs_fail(err, CS_ECORRUPT, "a recovery phrase has %d words of four letters", CS_PHRASE_WORDS);
    else
        rc = judge(secret, &words, fix, err);
    cs_wipe(&words, sizeof words);
    return rc;
}
