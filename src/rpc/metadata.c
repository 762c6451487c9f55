#include "rpc/metadata.h"

#include <inttypes.h>
#include <stdlib.h>

struct cs_slice cs_rpc_metadata_get(const struct cs_rpc_metadata *m, const char *name)
{
    for (size_t i = 0; m != NULL && i < m->n; i++)
        if (strcmp(m->items[i].name, name) == 0)
            return m->items[i].value;
    return CS_SLICE_NULL;
}

static bool is_one_of(struct cs_slice name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (cs_slice_eq(name, cs_slice_str(*list)))
            return true;
    return false;
}

static bool has_prefix(struct cs_slice s, const char *prefix)
{
    size_t n = strlen(prefix);

    return s.len >= n && memcmp(s.data, prefix, n) == 0;
}

static bool is_binary(struct cs_slice name)
{
    return name.len > 4 && memcmp(name.data + name.len - 4, "-bin", 4) == 0;
}

bool cs_rpc_is_grpc(struct cs_slice content_type)
{
    static const char grpc[] = "application/grpc";
    size_t n = sizeof grpc - 1;

    return has_prefix(content_type, grpc) &&
           (content_type.len == n || content_type.data[n] == '+' || content_type.data[n] == ';');
}

bool cs_rpc_list_has(struct cs_slice list, const char *item)
{
    const uint8_t *p = list.data, *end = list.len == 0 ? p : p + list.len, *start;

    while (p < end) {
        while (p < end && (*p == ' ' || *p == ','))
            p++;
        for (start = p; p < end && *p != ' ' && *p != ',';)
            p++;
        if (p > start && cs_slice_eq(cs_slice(start, (size_t)(p - start)), cs_slice_str(item)))
            return true;
    }
    return false;
}

/* "grpc-" is gRPC's, but this one it carries for its users. */
static bool is_reserved_for_grpc(struct cs_slice name)
{
    return has_prefix(name, "grpc-") && !cs_slice_eq(name, cs_slice_str("grpc-status-details-bin"));
}

/* ---- pairs ---- */

void cs_rpc_pairs_clear(struct cs_rpc_pairs *p)
{
    for (size_t i = 0; i < p->view.n; i++)
        free((void *)(uintptr_t)p->items[i].name); /* the pair's one block begins with its name */
    free(p->items);
    *p = (struct cs_rpc_pairs){ 0 };
}

int cs_rpc_pairs_put(struct cs_rpc_pairs *p, struct cs_slice name, struct cs_slice value)
{
    struct cs_rpc_meta *items;
    uint8_t *block;
    size_t cap;

    if (p->view.n == p->cap) {
        cap = p->cap == 0 ? 8 : p->cap * 2;
        if ((items = realloc(p->items, cap * sizeof *items)) == NULL)
            return CS_ENOMEM;
        p->view.items = p->items = items;
        p->cap = cap;
    }
    if ((block = malloc(name.len + value.len + 2)) == NULL)
        return CS_ENOMEM;
    memcpy(block, name.data, name.len);
    block[name.len] = 0;
    if (value.len > 0)
        memcpy(block + name.len + 1, value.data, value.len);
    block[name.len + 1 + value.len] = 0; /* so that a text may be read as one; not counted */
    p->items[p->view.n].name = (const char *)block;
    p->items[p->view.n++].value = cs_slice(block + name.len + 1, value.len);
    return CS_OK;
}

/* One base64 text, padded or not: senders should not pad, receivers must take both. */
static int put_binary(struct cs_rpc_pairs *p, struct cs_slice name, struct cs_slice text)
{
    struct cs_buf padded = { 0 }, plain = { 0 };
    int rc;

    cs_buf_put_slice(&padded, text);
    while (padded.len % 4 != 0 && !padded.failed)
        cs_buf_put_u8(&padded, '=');
    if (!cs_unbase64(&plain, cs_buf_slice(&padded), false))
        rc = plain.failed || padded.failed ? CS_ENOMEM : CS_ECORRUPT;
    else
        rc = padded.failed || plain.failed ? CS_ENOMEM : cs_rpc_pairs_put(p, name, cs_buf_slice(&plain));
    cs_buf_free(&padded);
    cs_buf_free(&plain);
    return rc;
}

int cs_rpc_pairs_put_field(struct cs_rpc_pairs *p, struct cs_slice name, struct cs_slice value)
{
    static const char *const transport[] = { "te", "content-type", NULL };
    const uint8_t *comma;
    int rc;

    if (has_prefix(name, ":") || is_reserved_for_grpc(name) || is_one_of(name, transport))
        return CS_OK;
    if (!is_binary(name))
        return cs_rpc_pairs_put(p, name, value);
    /* several values of one name may have been joined with commas on the way */
    while (value.len > 0 && (comma = memchr(value.data, ',', value.len)) != NULL) {
        size_t n = (size_t)(comma - value.data);

        if ((rc = put_binary(p, name, cs_slice(value.data, n))) != CS_OK)
            return rc;
        value = cs_slice(comma + 1, value.len - n - 1);
    }
    return put_binary(p, name, value);
}

/* ---- what may be sent ---- */

static bool name_char(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

int cs_rpc_metadata_check(const struct cs_rpc_metadata *m, struct cs_error *err)
{
    static const char *const reserved[] = { "te",         "content-type", "content-length",    "user-agent", "host",
                                            "connection", "keep-alive",   "transfer-encoding", "upgrade",    NULL };

    for (size_t i = 0; m != NULL && i < m->n; i++) {
        struct cs_slice name = cs_slice_str(m->items[i].name), value = m->items[i].value;

        if (is_reserved_for_grpc(name) || has_prefix(name, ":") || is_one_of(name, reserved))
            return cs_fail(err, CS_EINVAL, "metadata name \"%s\" is reserved", m->items[i].name);
        if (name.len == 0)
            return cs_fail(err, CS_EINVAL, "metadata needs a name");
        for (size_t k = 0; k < name.len; k++)
            if (!name_char(name.data[k]))
                return cs_fail(err, CS_EINVAL, "metadata name \"%s\": only a-z, 0-9, '-', '_' and '.' are allowed",
                               m->items[i].name);
        for (size_t k = 0; k < value.len && !is_binary(name); k++)
            if (value.data[k] < 0x20 || value.data[k] > 0x7e)
                return cs_fail(err, CS_EINVAL, "metadata \"%s\": the value is not printable ASCII", m->items[i].name);
    }
    return CS_OK;
}

/* ---- header blocks ---- */

struct cs_rpc_text {
    struct cs_rpc_text *next;
    struct cs_buf bytes;
};

void cs_rpc_fields_reset(struct cs_rpc_fields *f)
{
    struct cs_rpc_text *t, *next;

    for (t = f->texts; t != NULL; t = next) {
        next = t->next;
        cs_buf_free(&t->bytes);
        free(t);
    }
    f->texts = NULL;
    f->n = 0;
    f->failed = false;
}

void cs_rpc_fields_fini(struct cs_rpc_fields *f)
{
    cs_rpc_fields_reset(f);
    free(f->v);
    *f = (struct cs_rpc_fields){ 0 };
}

void cs_rpc_fields_put(struct cs_rpc_fields *f, const char *name, struct cs_slice value, bool no_index)
{
    nghttp2_nv *v;
    size_t cap;

    if (f->failed)
        return;
    if (f->n == f->cap) {
        cap = f->cap == 0 ? 16 : f->cap * 2;
        if ((v = realloc(f->v, cap * sizeof *v)) == NULL) {
            f->failed = true;
            return;
        }
        f->v = v;
        f->cap = cap;
    }
    /* nghttp2 takes non-const pointers and only reads them */
    f->v[f->n++] = (nghttp2_nv){ (uint8_t *)(uintptr_t)name,
                                 (uint8_t *)(uintptr_t)(value.data == NULL ? (const void *)"" : value.data),
                                 strlen(name), value.len, no_index ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE };
}

static struct cs_buf *new_text(struct cs_rpc_fields *f)
{
    struct cs_rpc_text *t = calloc(1, sizeof *t);

    if (t == NULL) {
        f->failed = true;
        return NULL;
    }
    t->next = f->texts;
    f->texts = t;
    return &t->bytes;
}

static void put_text(struct cs_rpc_fields *f, const char *name, const struct cs_buf *text, bool no_index)
{
    f->failed |= text->failed;
    cs_rpc_fields_put(f, name, cs_buf_slice(text), no_index);
}

void cs_rpc_fields_put_metadata(struct cs_rpc_fields *f, const struct cs_rpc_metadata *m)
{
    for (size_t i = 0; m != NULL && i < m->n; i++) {
        const struct cs_rpc_meta *x = &m->items[i];
        bool binary = is_binary(cs_slice_str(x->name));
        struct cs_buf *text;

        if (!binary) {
            cs_rpc_fields_put(f, x->name, x->value, strcmp(x->name, "authorization") == 0);
        } else if ((text = new_text(f)) != NULL) {
            cs_base64(text, x->value, false);
            while (text->len > 0 && text->data[text->len - 1] == '=')
                text->len--;
            put_text(f, x->name, text, true);
        }
    }
}

void cs_rpc_fields_put_number(struct cs_rpc_fields *f, const char *name, int64_t v)
{
    struct cs_buf *text = new_text(f);

    if (text == NULL)
        return;
    cs_buf_printf(text, "%" PRId64, v);
    put_text(f, name, text, true);
}

void cs_rpc_fields_put_status(struct cs_rpc_fields *f, int status, const char *text)
{
    static const char *const numbers[] = { "0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                           "9", "10", "11", "12", "13", "14", "15", "16" };
    struct cs_buf *encoded;

    if (status < CS_RPC_OK || status > CS_RPC_UNAUTHENTICATED)
        status = CS_RPC_UNKNOWN;
    cs_rpc_fields_put(f, "grpc-status", cs_slice_str(numbers[status]), false);
    if (text == NULL || *text == 0 || (encoded = new_text(f)) == NULL)
        return;
    cs_rpc_percent_encode(encoded, cs_slice_str(text));
    put_text(f, "grpc-message", encoded, true);
}

/* ---- grpc-message ---- */

void cs_rpc_percent_encode(struct cs_buf *out, struct cs_slice text)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];

        if (c >= 0x20 && c <= 0x7e && c != '%') {
            cs_buf_put_u8(out, c);
            continue;
        }
        cs_buf_put_u8(out, '%');
        cs_buf_put_u8(out, (uint8_t)digits[c >> 4]);
        cs_buf_put_u8(out, (uint8_t)digits[c & 15]);
    }
}

static int digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void cs_rpc_percent_decode(struct cs_buf *out, struct cs_slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        int hi = text.data[i] == '%' && text.len - i > 2 ? digit(text.data[i + 1]) : -1;
        int lo = hi >= 0 ? digit(text.data[i + 2]) : -1;

        if (lo < 0) {
            cs_buf_put_u8(out, text.data[i]);
            continue;
        }
        cs_buf_put_u8(out, (uint8_t)(hi << 4 | lo));
        i += 2;
    }
}
