/* grpc.reflection.v1 and v1alpha: the schemas of what the hub offers, from the descriptors that protoc made of them at
 * build time. Both versions are the same on the wire. */
#include <stdlib.h>

#include "clawsync/descriptors.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "hub/internal.h"

enum { QUEUED = 256 * 1024 }; /* bytes of answers above which no more requests are read */

/* ---- the descriptors ---- */

/* A field of a protobuf message; of the wire types only bytes matter here. */
struct field {
    uint64_t tag;
    struct cs_slice bytes; /* data NULL: not of that type */
};

static bool next_field(struct cs_reader *r, struct field *f)
{
    uint64_t key;

    if (r->bad || cs_reader_left(r) == 0)
        return false;
    key = cs_read_varint(r);
    *f = (struct field){ .tag = key >> 3 };
    switch (key & 7) {
    case 0:
        cs_read_varint(r);
        break;
    case 1:
        cs_read_bytes(r, 8);
        break;
    case 2:
        f->bytes = cs_read_bytes(r, (size_t)cs_read_varint(r));
        break;
    case 5:
        cs_read_bytes(r, 4);
        break;
    default:
        return false;
    }
    return !r->bad;
}

/* The first field of that tag. */
static struct cs_slice find_field(struct cs_slice message, uint64_t tag)
{
    struct cs_reader r = cs_reader(message);
    struct field f;

    while (next_field(&r, &f))
        if (f.tag == tag && f.bytes.data != NULL)
            return f.bytes;
    return CS_SLICE_NULL;
}

/* Numbers of google/protobuf/descriptor.proto. */
enum { SET_FILE = 1, FILE_NAME = 1, FILE_PACKAGE = 2, FILE_SERVICE = 6, ANY_NAME = 1 };

enum kind { FILE_KIND, MESSAGE_KIND, ENUM_KIND, SERVICE_KIND, LEAF_KIND };
/* What a descriptor has inside that carries a name. */
static const struct {
    enum kind outer;
    uint64_t tag;
    enum kind inner;
} parts[] = {
    { FILE_KIND, 4, MESSAGE_KIND }, { FILE_KIND, 5, ENUM_KIND },    { FILE_KIND, FILE_SERVICE, SERVICE_KIND },
    { FILE_KIND, 7, LEAF_KIND },    { MESSAGE_KIND, 2, LEAF_KIND }, { MESSAGE_KIND, 3, MESSAGE_KIND },
    { MESSAGE_KIND, 4, ENUM_KIND }, { MESSAGE_KIND, 6, LEAF_KIND }, { MESSAGE_KIND, 8, LEAF_KIND },
    { SERVICE_KIND, 2, LEAF_KIND },
};

static bool declares(enum kind kind, struct cs_slice descriptor, const char *symbol);

/* Is the part, or something in it, what symbol says? */
static bool part_declares(enum kind kind, struct cs_slice part, const char *symbol)
{
    struct cs_slice name = find_field(part, ANY_NAME);

    if (name.data == NULL || strncmp((const char *)name.data, symbol, name.len) != 0)
        return false;
    symbol += name.len;
    return *symbol == 0 || (*symbol == '.' && declares(kind, part, symbol + 1));
}

static bool declares(enum kind kind, struct cs_slice descriptor, const char *symbol)
{
    struct cs_reader r = cs_reader(descriptor);
    struct field f;

    while (next_field(&r, &f))
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
            if (parts[i].outer == kind && parts[i].tag == f.tag && f.bytes.data != NULL &&
                part_declares(parts[i].inner, f.bytes, symbol))
                return true;
    return false;
}

/* The name behind "package.", or NULL when it is of another package. */
static const char *within_package(struct cs_slice file, const char *symbol)
{
    struct cs_slice package = find_field(file, FILE_PACKAGE);

    if (package.data == NULL || strlen(symbol) <= package.len || memcmp(symbol, package.data, package.len) != 0 ||
        symbol[package.len] != '.')
        return NULL;
    return symbol + package.len + 1;
}

static struct cs_reader all_files(void)
{
    return cs_reader(cs_slice(cs_proto_descriptors, cs_proto_descriptors_len));
}

static struct cs_slice file_by_name(const char *name)
{
    struct cs_reader r = all_files();
    struct field f;

    while (next_field(&r, &f))
        if (cs_slice_eq(find_field(f.bytes, FILE_NAME), cs_slice_str(name)))
            return f.bytes;
    return CS_SLICE_NULL;
}

static struct cs_slice file_by_symbol(const char *symbol)
{
    struct cs_reader r = all_files();
    const char *inner;
    struct field f;

    while (next_field(&r, &f))
        if ((inner = within_package(f.bytes, symbol)) != NULL && declares(FILE_KIND, f.bytes, inner))
            return f.bytes;
    return CS_SLICE_NULL;
}

bool cs_reflection_has_service(const char *name)
{
    struct cs_slice file = file_by_symbol(name);
    struct cs_reader r = cs_reader(file);
    const char *inner = within_package(file, name);
    struct field f;

    while (inner != NULL && next_field(&r, &f))
        if (f.tag == FILE_SERVICE && cs_slice_eq(find_field(f.bytes, ANY_NAME), cs_slice_str(inner)))
            return true;
    return false;
}

/* ---- the answers ---- */

typedef Grpc__Reflection__V1__ServerReflectionRequest request;
typedef Grpc__Reflection__V1__ServerReflectionResponse response;

struct answer {
    response r;
    Grpc__Reflection__V1__FileDescriptorResponse files;
    Grpc__Reflection__V1__ExtensionNumberResponse numbers;
    Grpc__Reflection__V1__ListServiceResponse services;
    Grpc__Reflection__V1__ErrorResponse error;
    ProtobufCBinaryData file;
    struct cs_arena arena; /* lists and names */
};

static void set_error(struct answer *a, int status, const char *text)
{
    a->error.error_code = status;
    a->error.error_message = (char *)(uintptr_t)text;
    a->r.message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    a->r.error_response = &a->error;
}

static void set_file(struct answer *a, struct cs_slice file)
{
    if (file.data == NULL) {
        set_error(a, CS_RPC_NOT_FOUND, "nothing of that name is known here");
        return;
    }
    a->file = (ProtobufCBinaryData){ file.len, (uint8_t *)(uintptr_t)file.data };
    a->files.n_file_descriptor_proto = 1;
    a->files.file_descriptor_proto = &a->file;
    a->r.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    a->r.file_descriptor_response = &a->files;
}

/* No schema here is extended, nor could be. */
static void set_numbers(struct answer *a, char *type)
{
    if (file_by_symbol(type).data == NULL) {
        set_error(a, CS_RPC_NOT_FOUND, "nothing of that name is known here");
        return;
    }
    a->numbers.base_type_name = type;
    a->r.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    a->r.all_extension_numbers_response = &a->numbers;
}

/* The next service of all files; false after the last. */
static bool next_service(struct cs_reader *files, struct cs_slice *file, struct cs_reader *in_file,
                         struct cs_slice *service)
{
    struct field f;

    for (;;) {
        while (next_field(in_file, &f))
            if (f.tag == FILE_SERVICE) {
                *service = f.bytes;
                return true;
            }
        if (!next_field(files, &f))
            return false;
        *file = f.bytes;
        *in_file = cs_reader(f.bytes);
    }
}

static char *full_name(struct cs_arena *arena, struct cs_slice file, struct cs_slice service)
{
    struct cs_slice package = find_field(file, FILE_PACKAGE), name = find_field(service, ANY_NAME);
    char *out = cs_arena_alloc(arena, package.len + name.len + 2);

    if (out == NULL)
        return NULL;
    memcpy(out, package.data, package.len);
    out[package.len] = '.';
    memcpy(out + package.len + 1, name.data, name.len);
    out[package.len + 1 + name.len] = 0;
    return out;
}

static bool set_services(struct answer *a)
{
    struct cs_reader files = all_files(), in_file = { 0 };
    struct cs_slice file = CS_SLICE_NULL, service;
    Grpc__Reflection__V1__ServiceResponse *one;
    size_t n = 0;

    while (next_service(&files, &file, &in_file, &service))
        n++;
    a->services.n_service = n;
    a->services.service = cs_arena_alloc(&a->arena, n * sizeof(void *));
    files = all_files();
    in_file = (struct cs_reader){ 0 };
    for (size_t i = 0; a->services.service != NULL && next_service(&files, &file, &in_file, &service); i++) {
        if ((one = cs_arena_alloc(&a->arena, sizeof *one)) == NULL)
            return false;
        *one = (Grpc__Reflection__V1__ServiceResponse)GRPC__REFLECTION__V1__SERVICE_RESPONSE__INIT;
        if ((one->name = full_name(&a->arena, file, service)) == NULL)
            return false;
        a->services.service[i] = one;
    }
    a->r.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    a->r.list_services_response = &a->services;
    return a->services.service != NULL;
}

/* false: out of memory. */
static bool answer(struct answer *a, request *q)
{
    *a = (struct answer){ .r = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT,
                          .files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT,
                          .numbers = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT,
                          .services = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT,
                          .error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT };
    a->r.valid_host = q->host;
    a->r.original_request = q;
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        set_file(a, file_by_name(q->file_by_filename));
        return true;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        set_file(a, file_by_symbol(q->file_containing_symbol));
        return true;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        set_error(a, CS_RPC_NOT_FOUND, "no such extension is known here");
        return true;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        set_numbers(a, q->all_extension_numbers_of_type);
        return true;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        return set_services(a);
    default:
        set_error(a, CS_RPC_INVALID_ARGUMENT, "the request asks for nothing");
        return true;
    }
}

/* ---- the call ---- */

void cs_reflection_start(cs_rpc_call *c, void *service)
{
    cs_standing_start(c, service, cs_standing_end);
}

void cs_reflection_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct cs_arena arena = { 0 };
    ProtobufCAllocator alloc = cs_pb_arena(&arena);
    request *q = grpc__reflection__v1__server_reflection_request__unpack(&alloc, msg.len, msg.data);
    struct cs_buf out = { 0 };
    struct cs_verdict v = { 0 };
    struct answer a;

    (void)service;
    if (q == NULL) {
        cs_unparsable(&v, &arena);
        cs_call_finish(c, &v, NULL, 0);
        cs_arena_free(&arena);
        return;
    }
    if (!answer(&a, q))
        cs_refuse(&v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    else if (cs_pb_pack(&out, &a.r.base, &v) && cs_rpc_call_send(c, cs_buf_slice(&out)) == CS_ENOMEM)
        cs_refuse(&v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    cs_arena_free(&a.arena);
    cs_buf_free(&out);
    cs_arena_free(&arena);
    if (v.status != CS_RPC_OK)
        cs_call_finish(c, &v, NULL, 0);
    else if (cs_rpc_call_queued(c) >= QUEUED)
        cs_rpc_call_read(c, false);
}

void cs_reflection_writable(cs_rpc_call *c, void *service)
{
    (void)service;
    cs_rpc_call_read(c, true);
}

void cs_reflection_half_close(cs_rpc_call *c, void *service)
{
    static const struct cs_verdict fine = { 0 };

    (void)service;
    cs_call_finish(c, &fine, NULL, 0);
}
