#include "identity/code.h"

#include "crypto/keys.h"

enum {
    VERSION = 1,
    FLAG_TLS = 1,
    FLAG_PIN = 2,
    CHECK_LEN = 4,
    CODE_FIXED = 2 + 16 + 16 + CHECK_LEN, /* without pin and host */
    CODE_MAX = CODE_FIXED + 32 + CS_CODE_HOST_MAX,
    GROUP = 5,
    SYMBOL_BAD = -1,
    SYMBOL_SKIP = -2
};

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
static const char prefix[] = "CLAW1-";

void cs_base32(struct cs_buf *out, struct cs_slice in)
{
    uint32_t bits = 0;
    unsigned have = 0;

    for (size_t i = 0; i < in.len; i++) {
        bits = bits << 8 | in.data[i];
        for (have += 8; have >= 5; have -= 5)
            cs_buf_put_u8(out, (uint8_t)digits[bits >> (have - 5) & 31]);
    }
    if (have > 0)
        cs_buf_put_u8(out, (uint8_t)digits[bits << (5 - have) & 31]);
}

void cs_fingerprint(const uint8_t sign_pk[32], char out[24])
{
    uint8_t hash[32];
    struct cs_buf text = { 0 };
    size_t n = 0;

    cs_hash_plain(cs_slice(sign_pk, 32), hash);
    cs_base32(&text, cs_slice(hash, 10));
    for (size_t i = 0; i < text.len && n + 2 < 24; i++) {
        if (i > 0 && i % 4 == 0)
            out[n++] = '-';
        out[n++] = (char)text.data[i];
    }
    out[n] = '\0';
    cs_buf_free(&text);
}

static int symbol(uint8_t c)
{
    const char *at;

    if (c == ' ' || c == '-' || c == '\t' || c == '\r' || c == '\n')
        return SYMBOL_SKIP;
    if (c >= 'a' && c <= 'z')
        c = (uint8_t)(c - 'a' + 'A');
    if (c == 'O')
        return 0;
    if (c == 'I' || c == 'L')
        return 1;
    at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? SYMBOL_BAD : (int)(at - digits);
}

bool cs_unbase32(struct cs_buf *out, struct cs_slice text)
{
    uint32_t bits = 0;
    unsigned have = 0;

    for (size_t i = 0; i < text.len; i++) {
        int v = symbol(text.data[i]);

        if (v == SYMBOL_SKIP)
            continue;
        if (v < 0)
            return false;
        bits = (bits << 5 | (uint32_t)v) & 0xfff; /* at most 7 of older bits are still wanted */
        if ((have += 5) >= 8) {
            have -= 8;
            cs_buf_put_u8(out, (uint8_t)(bits >> have));
        }
    }
    return have < 5 && (bits & ((1u << have) - 1)) == 0 && !out->failed;
}

/* host:port of printable ASCII, a port in 1 … 65535. */
static bool hub_ok(struct cs_slice hub)
{
    size_t colon = hub.len, port = 0;

    if (hub.len == 0 || hub.len > CS_CODE_HOST_MAX)
        return false;
    for (size_t i = 0; i < hub.len; i++) {
        if (hub.data[i] <= ' ' || hub.data[i] >= 0x7f)
            return false;
        if (hub.data[i] == ':')
            colon = i;
    }
    if (colon == 0 || colon + 1 >= hub.len || hub.len - colon > 6)
        return false;
    for (size_t i = colon + 1; i < hub.len; i++) {
        if (hub.data[i] < '0' || hub.data[i] > '9')
            return false;
        port = port * 10 + (size_t)(hub.data[i] - '0');
    }
    return port >= 1 && port <= 65535;
}

static void check_bytes(struct cs_slice all_before, uint8_t out[CHECK_LEN])
{
    uint8_t hash[CS_HASH_LEN];

    cs_hash_label("code check", all_before, hash);
    memcpy(out, hash, CHECK_LEN);
}

int cs_invite_code_encode(struct cs_buf *out, const struct cs_invite_code *c, struct cs_error *err)
{
    uint8_t bytes[CODE_MAX] = { VERSION, (uint8_t)((c->tls ? FLAG_TLS : 0) | (c->has_pin ? FLAG_PIN : 0)) };
    struct cs_slice hub = cs_slice(c->hub, strnlen(c->hub, sizeof c->hub));
    size_t n = 2;

    if (!hub_ok(hub))
        return cs_fail(err, CS_EINVAL, "the hub's address is not host:port of 1 to %d bytes; no code was made",
                       CS_CODE_HOST_MAX);
    memcpy(bytes + n, c->secret, 16);
    memcpy(bytes + n + 16, c->workspace.b, 16);
    n += 32;
    if (c->has_pin) {
        memcpy(bytes + n, c->pin, 32);
        n += 32;
    }
    memcpy(bytes + n, hub.data, hub.len);
    n += hub.len;
    check_bytes(cs_slice(bytes, n), bytes + n);
    cs_buf_put(out, bytes, n + CHECK_LEN);
    cs_wipe(bytes, sizeof bytes);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory; no code was made") : CS_OK;
}

int cs_invite_code_decode(struct cs_invite_code *out, struct cs_slice bytes, struct cs_error *err)
{
    struct cs_invite_code c = { 0 };
    struct cs_reader r = cs_reader(bytes);
    uint8_t check[CHECK_LEN];
    struct cs_slice hub;
    uint8_t flags;

    if (bytes.len <= CODE_FIXED || bytes.len > CODE_MAX)
        return cs_fail(err, CS_ECORRUPT, "not an invite code, or not all of it");
    check_bytes(cs_slice(bytes.data, bytes.len - CHECK_LEN), check);
    if (!cs_secret_eq(check, bytes.data + bytes.len - CHECK_LEN, CHECK_LEN))
        return cs_fail(err, CS_ECORRUPT, "the invite code has a typing mistake");
    if (cs_read_u8(&r) != VERSION)
        return cs_fail(err, CS_EVERSION, "invite code of another version; update claw-sync to use it");
    flags = cs_read_u8(&r);
    c.tls = (flags & FLAG_TLS) != 0;
    c.has_pin = (flags & FLAG_PIN) != 0;
    cs_read_into(&r, c.secret, 16);
    cs_read_into(&r, c.workspace.b, 16);
    if (c.has_pin)
        cs_read_into(&r, c.pin, 32);
    if (r.bad || cs_reader_left(&r) <= CHECK_LEN || (flags & ~(FLAG_TLS | FLAG_PIN)) != 0)
        return cs_fail(err, CS_ECORRUPT, "invite code that is damaged inside");
    hub = cs_read_bytes(&r, cs_reader_left(&r) - CHECK_LEN);
    if (!hub_ok(hub))
        return cs_fail(err, CS_ECORRUPT, "invite code without a usable hub address");
    memcpy(c.hub, hub.data, hub.len);
    *out = c;
    cs_wipe(&c, sizeof c);
    return CS_OK;
}

int cs_invite_code_text(struct cs_buf *out, const struct cs_invite_code *c, struct cs_error *err)
{
    struct cs_buf bytes = { 0 }, text = { 0 };
    int rc;

    if (!cs_buf_reserve(&bytes, CODE_MAX) || !cs_buf_reserve(&text, CODE_MAX * 2))
        rc = cs_fail(err, CS_ENOMEM, "out of memory; no code was made");
    else
        rc = cs_invite_code_encode(&bytes, c, err);
    if (rc == CS_OK) {
        cs_base32(&text, cs_buf_slice(&bytes));
        cs_buf_reserve(out, sizeof prefix + text.len + text.len / GROUP);
        cs_buf_put_str(out, prefix);
        for (size_t i = 0; i < text.len; i += GROUP) {
            if (i > 0)
                cs_buf_put_u8(out, '-');
            cs_buf_put(out, text.data + i, text.len - i < GROUP ? text.len - i : GROUP);
        }
        if (out->failed)
            rc = cs_fail(err, CS_ENOMEM, "out of memory; no code was made");
    }
    cs_wipe(bytes.data, bytes.cap);
    cs_wipe(text.data, text.cap);
    cs_buf_free(&bytes);
    cs_buf_free(&text);
    return rc;
}

/* Where the text goes on behind "CLAW1", read as leniently as the rest; NULL: it does not begin so. */
static const char *behind_prefix(const char *text)
{
    const char *want = prefix;

    for (; *want != '-'; text++) {
        int v = symbol((uint8_t)*text);

        if (v == SYMBOL_SKIP)
            continue;
        if (v < 0 || v != symbol((uint8_t)*want))
            return NULL;
        want++;
    }
    return text;
}

int cs_invite_code_parse(struct cs_invite_code *out, const char *text, struct cs_error *err)
{
    const char *rest = behind_prefix(text);
    struct cs_buf bytes = { 0 };
    int rc;

    if (rest == NULL)
        return cs_fail(err, CS_ECORRUPT, "not an invite code: those begin with %s", prefix);
    if (strlen(rest) > 8 * CODE_MAX)
        return cs_fail(err, CS_ECORRUPT, "too long for an invite code");
    if (!cs_buf_reserve(&bytes, strlen(rest)))
        rc = cs_fail(err, CS_ENOMEM, "out of memory; the code was not read");
    else if (!cs_unbase32(&bytes, cs_slice_str(rest)))
        rc = cs_fail(err, CS_ECORRUPT, "the invite code has a typing mistake or was cut");
    else
        rc = cs_invite_code_decode(out, cs_buf_slice(&bytes), err);
    cs_wipe(bytes.data, bytes.cap);
    cs_buf_free(&bytes);
    return rc;
}
