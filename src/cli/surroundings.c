#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/doctor.h"

bool cs_sqlite_has_wal_reset_bug(int version)
{
    /* from 3.7.0 on; mended in 3.51.3, and for those who stay on them in 3.50.7 and 3.44.6 */
    if (version < 3007000 || version >= 3051003)
        return false;
    return !(version >= 3050007 && version < 3051000) && !(version >= 3044006 && version < 3045000);
}

/* Is path in the folder dir, or dir itself? */
static bool is_below(const char *path, const char *dir, size_t len)
{
    if (len == 1 && dir[0] == '/')
        return path[0] == '/';
    return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* In mountinfo a space, a tab, a newline and a backslash are written as three octal digits. */
static size_t unescape(const char *from, size_t n, char *to, size_t size)
{
    size_t len = 0;

    for (size_t i = 0; i < n && len + 1 < size; i++) {
        if (from[i] == '\\' && i + 3 < n && from[i + 1] >= '0' && from[i + 1] <= '3') {
            to[len++] = (char)((from[i + 1] - '0') * 64 + (from[i + 2] - '0') * 8 + (from[i + 3] - '0'));
            i += 3;
        } else {
            to[len++] = from[i];
        }
    }
    to[len] = '\0';
    return len;
}

/* The n-th word of a line, from 0. */
static const char *word(const char *line, const char *end, int n, size_t *len)
{
    for (; n > 0 && line < end; n--) {
        const char *space = memchr(line, ' ', (size_t)(end - line));

        line = space == NULL ? end : space + 1;
    }
    *len = 0;
    while (line + *len < end && line[*len] != ' ')
        ++*len;
    return line;
}

void cs_file_system_of(const char *mountinfo, const char *path, char out[32])
{
    size_t best = 0;

    out[0] = '\0';
    for (const char *line = mountinfo, *next; *line != '\0'; line = next) {
        const char *end = strchrnul(line, '\n'), *point, *type, *dash;
        char dir[4096];
        size_t n, len;

        next = *end == '\n' ? end + 1 : end;
        point = word(line, end, 4, &n);
        len = unescape(point, n, dir, sizeof dir);
        dash = memmem(line, (size_t)(end - line), " - ", 3);
        if (len < best || len == 0 || dash == NULL || !is_below(path, dir, len))
            continue;
        best = len; /* the later one of two lies on top */
        type = word(dash + 3, end, 0, &n);
        snprintf(out, 32, "%.*s", (int)(n < 31 ? n : 31), type);
    }
}

bool cs_is_network_file_system(const char *type)
{
    static const char *const names[] = {
        "nfs",   "nfs4",        "cifs",      "smb3",           "smbfs",      "ncpfs",        "afs",
        "coda",  "ceph",        "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.rclone",  "fuse.s3fs",
        "davfs", "fuse.davfs2", "fuse.ceph", "fuse.gcsfuse",   "9p",         "fuse.smbnetfs"
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(type, names[i]) == 0)
            return true;
    return false;
}

/* As folders of such programs are called; those with a blank behind them also with more ("OneDrive - Company"). */
static bool copies(const char *name, size_t len)
{
    static const char *const exact[] = { "iCloudDrive",         "iCloud Drive", "Mobile Documents",
                                         "com~apple~CloudDocs", "Google Drive", "GoogleDrive",
                                         "pCloudDrive",         "MEGAsync",     "CloudStorage" };
    static const char *const begins[] = { "Dropbox", "OneDrive", "Nextcloud", "ownCloud", "Syncthing" };

    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++)
        if (strlen(exact[i]) == len && strncasecmp(name, exact[i], len) == 0)
            return true;
    for (size_t i = 0; i < sizeof begins / sizeof begins[0]; i++) {
        size_t n = strlen(begins[i]);

        if (len >= n && strncasecmp(name, begins[i], n) == 0 && (len == n || name[n] == ' '))
            return true;
    }
    return false;
}

const char *cs_copied_folder(const char *path, size_t *len)
{
    for (const char *p = path; *p != '\0'; p += *len) {
        while (*p == '/')
            p++;
        *len = strcspn(p, "/");
        if (*len > 0 && p[*len] == '/' && copies(p, *len)) /* a folder: the file's own name may be anything */
            return p;
    }
    return NULL;
}
