/* The sessions that clients have open, in memory only, and how much each address may still try. On the loop. */
#include <stdlib.h>

#include "hub/internal.h"
#include "hub/offers.h"
#include "rpc/peers.h"

enum {
    BUCKETS = 4096,
    MAX_SESSIONS = 65536,
    MAX_PER_ADDRESS = 64,
    IDLE_MS = 15 * 60 * 1000,
    MAX_ACCOUNTS = 16384,
    OPENS = 10,    /* at once, and per second */
    FAILURES = 20, /* at once, and per minute */
    FAILURES_MS = 60 * 1000,
    BYTES_SECONDS = 10,
    OFFERS = 2 /* devices that wait to be let in */
};

/* What an address may still do: an open costs 1000, a failure FAILURES_MS, so that each ms brings whole numbers. */
struct account {
    struct account *next;          /* in its bucket */
    struct account *newer, *older; /* by use */
    char key[CS_RPC_PEER_KEY];
    uint64_t opens, failures;
    int64_t bytes; /* thousandths; a batch may overdraw it, and the next ones wait */
    uint64_t filled_ms;
    struct {
        struct cs_uuid workspace, device;
        uint64_t until_ms;
    } offers[OFFERS];
};

struct cs_sessions {
    struct cs_hub *hub;
    struct cs_hub_session *buckets[BUCKETS];
    struct cs_hub_session *newest, *oldest; /* by use */
    size_t n;
    struct account *accounts[BUCKETS];
    struct account *last_used, *first_used;
    size_t naccounts;
    uint8_t hash_key[32]; /* so that nobody can choose addresses that share a bucket */
};

int cs_sessions_new(struct cs_hub *h, struct cs_sessions **out)
{
    struct cs_sessions *t = calloc(1, sizeof *t);

    *out = t;
    if (t == NULL)
        return CS_ENOMEM;
    t->hub = h;
    cs_random(&h->env.rng, t->hash_key, sizeof t->hash_key);
    return CS_OK;
}

/* ---- sessions ---- */

static struct cs_hub_session **bucket_of(struct cs_sessions *t, const uint8_t id[CS_SESSION_ID_LEN])
{
    return &t->buckets[cs_load_u32(id) % BUCKETS]; /* ids are random, and ours */
}

static void use_unlink(struct cs_sessions *t, struct cs_hub_session *s)
{
    if (s == t->newest)
        t->newest = s->older;
    else
        s->newer->older = s->older;
    if (s == t->oldest)
        t->oldest = s->newer;
    else
        s->older->newer = s->newer;
}

static void use_link(struct cs_sessions *t, struct cs_hub_session *s)
{
    s->newer = NULL;
    s->older = t->newest;
    *(s->older != NULL ? &s->older->newer : &t->oldest) = s;
    t->newest = s;
    s->used_ms = cs_loop_now_ms(t->hub->loop);
}

static void session_drop(struct cs_sessions *t, struct cs_hub_session *s)
{
    struct cs_hub_session **at = bucket_of(t, s->id);

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    use_unlink(t, s);
    t->n--;
    cs_answer_key_unref(t->hub->answer_keys, s->answer_key);
    free(s);
}

static void drop_idle(struct cs_sessions *t)
{
    uint64_t now = cs_loop_now_ms(t->hub->loop);

    while (t->oldest != NULL && now - t->oldest->used_ms >= IDLE_MS)
        session_drop(t, t->oldest);
}

struct cs_hub_session *cs_sessions_find(struct cs_sessions *t, const uint8_t id[CS_SESSION_ID_LEN])
{
    struct cs_hub_session *s;

    drop_idle(t);
    for (s = *bucket_of(t, id); s != NULL; s = s->next)
        if (memcmp(s->id, id, CS_SESSION_ID_LEN) == 0)
            break;
    if (s != NULL) {
        use_unlink(t, s);
        use_link(t, s);
    }
    return s;
}

/* Room for one more of that address, if need be in place of its oldest. */
static void make_room(struct cs_sessions *t, const char *key)
{
    struct cs_hub_session *last = NULL;
    size_t n = 0;

    drop_idle(t);
    if (t->n >= MAX_SESSIONS && t->oldest != NULL)
        session_drop(t, t->oldest);
    if (key[0] == '\0')
        return;
    for (struct cs_hub_session *s = t->newest; s != NULL; s = s->older)
        if (strcmp(s->address, key) == 0) {
            last = s;
            n++;
        }
    if (n >= MAX_PER_ADDRESS)
        session_drop(t, last);
}

/* The address that limits are counted for; "": none are. */
static void limited_address(const struct cs_sessions *t, const char *peer, char key[CS_RPC_PEER_KEY])
{
    bool here = strncmp(peer, "127.", 4) == 0 || strncmp(peer, "[::1]", 5) == 0;

    key[0] = '\0';
    if (!here || t->hub->limit_loopback)
        cs_rpc_peer_key(key, peer);
}

int cs_sessions_add(struct cs_sessions *t, const struct cs_session *keys, uint64_t connection, const char *peer)
{
    struct cs_hub_session *s = calloc(1, sizeof *s), **at;

    if (s == NULL)
        return CS_ENOMEM;
    limited_address(t, peer, s->address);
    make_room(t, s->address);
    if ((s->answer_key = cs_answer_key_new(t->hub->answer_keys, keys->answer_key)) == NULL) {
        free(s);
        return CS_ENOMEM;
    }
    memcpy(s->id, keys->id, sizeof s->id);
    memcpy(s->transcript, keys->transcript, sizeof s->transcript);
    s->connection = connection;
    at = bucket_of(t, s->id);
    s->next = *at;
    *at = s;
    use_link(t, s);
    t->n++;
    return CS_OK;
}

/* ---- what addresses may do ---- */

static struct account **account_bucket(struct cs_sessions *t, const char *key)
{
    uint8_t h[8];

    cs_mac(t->hash_key, cs_slice_str(key), h, sizeof h);
    return &t->accounts[cs_load_u64(h) % BUCKETS];
}

static void account_unlink(struct cs_sessions *t, struct account *a)
{
    if (a == t->last_used)
        t->last_used = a->older;
    else
        a->newer->older = a->older;
    if (a == t->first_used)
        t->first_used = a->newer;
    else
        a->older->newer = a->newer;
}

static void account_link(struct cs_sessions *t, struct account *a)
{
    a->newer = NULL;
    a->older = t->last_used;
    *(a->older != NULL ? &a->older->newer : &t->first_used) = a;
    t->last_used = a;
}

static void account_drop(struct cs_sessions *t, struct account *a)
{
    struct account **at = account_bucket(t, a->key);

    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    account_unlink(t, a);
    t->naccounts--;
    free(a);
}

static int64_t bytes_burst(const struct cs_sessions *t)
{
    return (int64_t)t->hub->env.quota.bytes_per_s * BYTES_SECONDS * 1000;
}

static void account_fill(const struct cs_sessions *t, struct account *a, uint64_t now)
{
    uint64_t ms = now - a->filled_ms;

    a->filled_ms = now;
    if (ms > BYTES_SECONDS * 1000)
        a->bytes = bytes_burst(t);
    else
        a->bytes += (int64_t)(ms * t->hub->env.quota.bytes_per_s);
    if (a->bytes > bytes_burst(t))
        a->bytes = bytes_burst(t);
    a->opens += ms * OPENS;
    if (a->opens > OPENS * 1000)
        a->opens = OPENS * 1000;
    a->failures += ms * FAILURES;
    if (a->failures > FAILURES * FAILURES_MS)
        a->failures = FAILURES * FAILURES_MS;
}

/* NULL: there is no memory to count. */
static struct account *account_by_key(struct cs_sessions *t, const char key[CS_RPC_PEER_KEY])
{
    uint64_t now = cs_loop_now_ms(t->hub->loop);
    struct account *a, **bucket;

    bucket = account_bucket(t, key);
    for (a = *bucket; a != NULL && strcmp(a->key, key) != 0;)
        a = a->next;
    if (a != NULL) {
        account_unlink(t, a);
    } else {
        if (t->naccounts >= MAX_ACCOUNTS && t->first_used != NULL)
            account_drop(t, t->first_used);
        if ((a = calloc(1, sizeof *a)) == NULL)
            return NULL;
        memcpy(a->key, key, CS_RPC_PEER_KEY);
        a->bytes = bytes_burst(t);
        a->opens = OPENS * 1000;
        a->failures = FAILURES * FAILURES_MS;
        a->filled_ms = now;
        a->next = *bucket;
        *bucket = a;
        t->naccounts++;
    }
    account_link(t, a);
    account_fill(t, a, now);
    return a;
}

/* NULL: nobody counts. */
static struct account *account_of(struct cs_sessions *t, const char *peer)
{
    char key[CS_RPC_PEER_KEY] = "";

    limited_address(t, peer, key);
    return key[0] == '\0' ? NULL : account_by_key(t, key);
}

bool cs_sessions_may_push(struct cs_sessions *t, const struct cs_uuid *workspace, size_t bytes)
{
    char key[CS_RPC_PEER_KEY] = "workspace ";
    struct account *a;

    if (t->hub->env.quota.bytes_per_s == 0)
        return true;
    cs_uuid_text(key + strlen(key), workspace);
    if ((a = account_by_key(t, key)) == NULL)
        return true;
    if (a->bytes <= 0)
        return false;
    a->bytes -= (int64_t)bytes * 1000;
    return true;
}

bool cs_sessions_may_open(struct cs_sessions *t, const char *peer)
{
    struct account *a = account_of(t, peer);

    if (a == NULL)
        return true;
    if (a->opens < 1000)
        return false;
    a->opens -= 1000;
    return true;
}

bool cs_sessions_may_try(struct cs_sessions *t, const char *peer)
{
    const struct account *a = account_of(t, peer);

    return a == NULL || a->failures >= FAILURES_MS;
}

bool cs_sessions_may_offer(struct cs_sessions *t, const char *peer, const struct cs_uuid *workspace,
                           const struct cs_uuid *device)
{
    struct account *a = account_of(t, peer);
    uint64_t now = cs_loop_now_ms(t->hub->loop);
    int at = -1;

    if (a == NULL)
        return true;
    for (int i = 0; i < OFFERS; i++) {
        if (cs_uuid_cmp(&a->offers[i].workspace, workspace) == 0 && cs_uuid_cmp(&a->offers[i].device, device) == 0) {
            at = i;
            break;
        }
        if (a->offers[i].until_ms <= now)
            at = i;
    }
    if (at < 0)
        return false;
    a->offers[at].workspace = *workspace;
    a->offers[at].device = *device;
    a->offers[at].until_ms = now + CS_OFFER_MS;
    return true;
}

void cs_sessions_failed(struct cs_sessions *t, const char *peer)
{
    struct account *a = account_of(t, peer);

    if (a != NULL)
        a->failures -= a->failures < FAILURES_MS ? a->failures : FAILURES_MS;
}

void cs_sessions_free(struct cs_sessions *t)
{
    struct cs_hub_session *s, *newer;
    struct account *a, *later;

    if (t == NULL)
        return;
    for (s = t->oldest; s != NULL; s = newer) {
        newer = s->newer;
        cs_answer_key_unref(t->hub->answer_keys, s->answer_key);
        free(s);
    }
    for (a = t->first_used; a != NULL; a = later) {
        later = a->newer;
        free(a);
    }
    free(t);
}
