#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char beside_daemon[] =
    "Beside a running daemon, which does this by itself all the time, the daemon does it at once.";

static const struct cs_cli_command commands[] = {
    { "run", "", 0, 0, 0, "replicate until stopped (the default command)",
      "Local commits are sent at once and others' changes arrive at once; the hub may come and go.\n"
      "SIGINT or SIGTERM ends it after what is in flight.",
      cs_cmd_run },
    { "sync", "", 0, 0, 0, "pull, push, pull once; prints pushed=N, pulled=M", beside_daemon, cs_cmd_sync },
    { "push", "", 0, 0, 0, "send what is unsent once", beside_daemon, cs_cmd_push },
    { "pull", "", 0, 0, 0, "fetch and apply what the hub has once", beside_daemon, cs_cmd_pull },
    { "status", "", 0, 0, CS_OPT_STATUS, "IN SYNC, SYNCING, OFFLINE or NEEDS YOU, and all that is behind it",
      "Asks the hub, and needs no running daemon; one that runs is not disturbed. \"In sync\" is said when the hub "
      "has\n"
      "just confirmed it. NEEDS YOU comes with the reason and what settles it. A keystore under a passphrase is not\n"
      "asked for: the hub is then left out. Exit code 0 whatever is found.",
      cs_cmd_status },
    { "tables", "", 0, 0, 0, "the database's tables and which are tracked", NULL, cs_cmd_tables },
    { "track", "TABLE", 1, 1, CS_OPT_FORCE, "replicate a table from now on, with the rows it has",
      "--force also takes a table whose key is a rowid alias (INTEGER PRIMARY KEY), which two devices\n"
      "would both hand out: only safe when the application chooses the keys itself.",
      cs_cmd_track },
    { "untrack", "TABLE", 1, 1, 0, "stop replicating a table; its data stays", NULL, cs_cmd_untrack },
    { "pause", "[TABLE]", 0, 1, 0, "take the triggers off, as before a migration", NULL, cs_cmd_pause },
    { "resume", "[TABLE]", 0, 1, 0, "put them back and find what changed meanwhile", NULL, cs_cmd_resume },
    { "hidden list", "[TABLE]", 0, 1, 0, "what the tables cannot show at present, and why",
      "Rows, with what stands in their way, and batches of others whose content could not be read.",
      cs_cmd_hidden_list },
    { "hidden show", "TABLE KEY | NUMBER", 1, 2, 0, "a row with its values, or a batch of the log; as in the list",
      "KEY as `hidden list` prints it; NUMBER: of a batch that was set aside, and what is wrong with it.",
      cs_cmd_hidden_show },
    { "hidden export", "[TABLE]", 0, 1, 0, "all of them on standard output, a JSON object per line", NULL,
      cs_cmd_hidden_export },
    { "hidden retry", "", 0, 0, 0, "try all of them once more, with the next round",
      "Rows are shown by themselves when a schema, a parent or a key lets them, and batches are fetched once more\n"
      "whenever claw-sync starts. This is for what nobody can notice: a trigger that asks another table, a hub that\n"
      "was repaired. Works beside a running daemon, which does it at once.",
      cs_cmd_hidden_retry },
    { "hidden dismiss", "NUMBER", 1, 1, 0, "a batch that was set aside is listed, and fetched, no more",
      "For one that never opens. What it held, and what of its device could not be taken in behind it, comes by\n"
      "claw-sync reconcile, from the device that has it.",
      cs_cmd_hidden_dismiss },
    { "conflicts list", "", 0, 0, 0, "edits that lost to others, and rows in each other's way", NULL,
      cs_cmd_conflicts_list },
    { "conflicts show", "ID", 1, 1, 0, "one of them in full; the first digits of the id will do", NULL,
      cs_cmd_conflicts_show },
    { "conflicts resolve", "ID", 1, 1, CS_OPT_CHOICE, "decide: what is shown stays, or --take, or --value VALUE",
      "Whatever is decided is a new edit, which travels, and closes the conflict on every device. ID: its first\n"
      "digits will do. VALUE: as the lists print it, 'text', 12, x'00ff', NULL; anything else is text.",
      cs_cmd_conflicts_resolve },
    { "conflicts restore", "ID", 1, 1, 0, "write the value that lost once more, as a new edit",
      "The same as `conflicts resolve --take`: the application's triggers run and its constraints hold, as if it had\n"
      "made the edit. Where the row was deleted it is inserted again, as it was with that edit, on a device that had\n"
      "it so: the one that made the edit, or any that had read it before the delete.",
      cs_cmd_conflicts_restore },
    { "strategy", "TABLE[.COLUMN] manual|last_write_wins", 2, 2, 0, "what becomes of concurrent edits there",
      "last_write_wins (the default): the newest wins, the others can be restored for 30 days. manual: the newest\n"
      "is shown too, and each such conflict waits for `claw-sync conflicts resolve`. A column's own strategy goes\n"
      "before its table's. It holds from now on, and on all devices of the workspace.",
      cs_cmd_strategy },
    { "queue list", "", 0, 0, 0, "what waits for the hub, and what it refused for good",
      "Works beside a running daemon. Unsent edits are counted: they stay in the database, where they coalesce.",
      cs_cmd_queue_list },
    { "queue retry", "[ID]", 0, 1, 0, "send a refused set once more, or all of them",
      "It goes with the next round, as its edits are by then; the first digits of the id will do.",
      cs_cmd_queue_retry },
    { "queue export", "[ID]", 0, 1, 0, "their operations on standard output, a JSON object per line", NULL,
      cs_cmd_queue_export },
    { "invite", "", 0, 0, CS_OPT_EXPIRES | CS_OPT_QR, "print a code with which one device joins, once",
      "The code is a password: whoever has it can join until it expires. This device may be offline then.\n"
      "On a terminal it is shown as a QR code too.",
      cs_cmd_invite },
    { "join", "[CODE]", 0, 1, 0, "join a workspace with such a code, or wait for a device that is in to approve",
      "Workspace and hub are in the code; settings that are given go before the hub in it. CODE - reads it\n"
      "from standard input. Without a code it waits, at most 15 minutes, for claw-sync devices approve on a device\n"
      "that is in, shows 8 characters to type there, and asks whether they match. The first device of a new\n"
      "workspace needs none of this: claw-sync alone makes one.",
      cs_cmd_join },
    { "devices approve", "", 0, 0, 0, "let in a device that waits, by the 8 characters it shows",
      "Answers the devices that wait with claw-sync join; asks for the characters that the right one shows then, or\n"
      "reads them from standard input. What is typed wrong lets nobody in, and both sides begin anew.",
      cs_cmd_devices_approve },
    { "devices rename", "DEVICE NAME", 2, 2, 0, "give a device another name, encrypted for the members",
      "DEVICE: its name, its id, or the first characters of the id.", cs_cmd_devices_rename },
    { "devices revoke", "DEVICE", 1, 1, CS_OPT_DISTRUST, "remove a device, phrase or invite, and change the key",
      "Nothing written from then on opens with what it has. What it sent up to then counts; what it had not\n"
      "sent stays on it. Lists whom it let in.",
      cs_cmd_devices_revoke },
    { "devices", "", 0, 0, 0, "who is in: name, id, fingerprint, added by, last seen, how far behind", NULL,
      cs_cmd_devices },
    { "identity new", "", 0, 0, 0, "make a copy a device of its own, which joins with a code",
      "For a database and data_dir that were copied, or a database whose data_dir is lost. New id and keys;\n"
      "what is unsent stays unsent and goes out when the device has joined. The old keystore is kept.",
      cs_cmd_identity_new },
    { "keys passphrase", "", 0, 0, CS_OPT_PASSPHRASE | CS_OPT_REMOVE,
      "put the keystore under a passphrase, or another one",
      "From then on a prompt asks for it, or --keystore-passphrase-fd N gives it, or systemd does as the\n"
      "credential claw-sync.passphrase. Stop the daemon first.",
      cs_cmd_keys_passphrase },
    { "keys rotate", "", 0, 0, 0, "change the workspace's key", NULL, cs_cmd_keys_rotate },
    { "recovery create", "", 0, 0, 0, "print 24 words to write down: they bring the workspace to a bare machine",
      "Whoever has them can read everything. claw-sync devices lists the phrase, devices revoke ends it.",
      cs_cmd_recovery_create },
    { "recovery use", "", 0, 0, 0, "join with the 24 words, read from standard input",
      "Workspace and hub come from the configuration. The phrase stays good; remove the lost device with\n"
      "claw-sync devices revoke.",
      cs_cmd_recovery_use },
    { "keys export", "FILE", 1, 1, CS_OPT_PASSPHRASE | CS_OPT_EXPIRES,
      "write an invite with the workspace's keys to a new file",
      "The file is protected by a passphrase and lets one device join once. Carry file and passphrase\n"
      "to the other device by different ways.",
      cs_cmd_keys_export },
    { "keys import", "FILE", 1, 1, CS_OPT_PASSPHRASE, "join a workspace with such a file", NULL, cs_cmd_keys_import },
    { "audit verify", "", 0, 0, 0, "is this device's audit log as it was written?",
      "Checks numbers, hashes and every signature against the device's key in the membership log, and the rows\n"
      "that signed batches name. Exit code 1: it was changed; the first such row is named.",
      cs_cmd_audit_verify },
    { "audit tail", "[ROWS]", 0, 1, 0, "its newest rows, 20 or so many; --json: a JSON object per line", NULL,
      cs_cmd_audit_tail },
    { "audit export", "", 0, 0, 0, "all of it on standard output, a JSON object per line", NULL, cs_cmd_audit_export },
    { "verify-heads", "[N/M]", 0, 1, 0, "a short code of what the hub has shown here, for two people to compare",
      "Prints the code with its place, N in the log and M in the membership; give that place on the other device,\n"
      "synced, and compare. Another code there: the hub shows the two devices different things (a fork).",
      cs_cmd_verify_heads },
    { "reconcile", "", 0, 0, 0, "compare this device's rows with the others', and level what differs",
      "Finds what was written here behind our back (without our triggers), sends and fetches what is outstanding,\n"
      "then compares whole states through the hub, which sees hashes only. What differs is published with its\n"
      "original stamps by whoever has it. Waits 20 s for devices that are connected; the others compare when they\n"
      "reconcile. Where a daemon runs it does this itself. Exit code 1: a device still differs.",
      cs_cmd_reconcile },
    { "prove", "", 0, 0, 0, "every device signs the same state, or the first row that differs is named",
      "A device that is behind or offline is listed as such; of one that is not connected, what it signed earlier\n"
      "counts, and is said to be of then. What was written here behind our back is taken in and sent as on every\n"
      "round; nothing else is healed. A daemon may run. Exit code 0: all are equal.",
      cs_cmd_prove },
    { "compact", "", 0, 0, 0, "give the hub a snapshot, so that its log can lose what is older",
      "The snapshot is this device's whole state, signed and encrypted. New devices get it instead of all that\n"
      "ever happened. Once another device has attested it (its daemon does, or this command there) and every\n"
      "device is past it, the hub prunes its log. Where a daemon runs this happens by itself; compact_after 0\n"
      "switches that off.",
      cs_cmd_compact },
    { "hub refill", "", 0, 0, 0, "fill a hub that lost what it had, from this device",
      "For a hub that was restored from a backup or lost its data (status says NEEDS YOU and names this command).\n"
      "The hub gets the membership back and a new log with all that this device has; what can still be read there\n"
      "is taken first. The other devices follow by themselves, and bring what only they have. Run it on the device\n"
      "that has most; with the daemon stopped. After a crash: once more.",
      cs_cmd_hub_refill },
    { "hub accept", "[FINGERPRINT]", 0, 1, 0, "go on with a hub whose key is another one than before",
      "FINGERPRINT is the new key's, as the one who runs the hub tells it (claw-sync-server prints it). Without it\n"
      "the key is shown, and nothing changes. On each device; if the hub's data is gone too, then: hub refill.",
      cs_cmd_hub_accept },
    { "doctor", "", 0, 0, 0, "is all well here? One line per check: ok, warning or failed, and what to do",
      "Looks at configuration, SQLite, file modes and places, database, triggers, queue, membership,\n"
      "audit log, hub, TLS, clock and what the last round found, and fetches the newest batch of this\n"
      "device back to show that the hub has ciphertext. Writes nothing; a daemon may run.\n"
      "Exit code 1: something failed; 3: the hub cannot be reached, and all else is well.",
      cs_cmd_doctor },
    { "version", "", 0, 0, 0, "print the version", NULL, cs_cmd_version },
};
enum { NCOMMANDS = sizeof commands / sizeof commands[0] };

static void print_summary(const struct cs_cli_command *cmd)
{
    printf("  %-17s %-11s %s\n", cmd->name, cmd->args, cmd->summary);
}

static void print_usage(void)
{
    printf("usage: claw-sync [COMMAND] [OPTION ...]\n\n"
           "Replicates a local SQLite database between your devices, end-to-end encrypted.\n\n"
           "commands (claw-sync COMMAND --help tells more):\n");
    for (int i = 0; i < NCOMMANDS; i++)
        print_summary(&commands[i]);
    printf("\n");
    cs_cli_print_options();
    printf("\nexit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 hub unreachable (changes kept),\n"
           "4 the hub misbehaves\n");
}

static int print_command_help(const struct cs_cli_command *cmd)
{
    printf("usage: claw-sync %s%s%s [OPTION ...]\n\n%s\n", cmd->name, cmd->args[0] != '\0' ? " " : "", cmd->args,
           cmd->summary);
    if (cmd->help != NULL)
        printf("%s\n", cmd->help);
    if (cmd->options != 0)
        printf("\noptions of this command:\n");
    if (cmd->options & CS_OPT_FORCE)
        printf("  --force                        track a rowid alias all the same\n");
    if (cmd->options & CS_OPT_PASSPHRASE)
        printf("  --passphrase-file FILE         its first line; otherwise a prompt asks\n");
    if (cmd->options & CS_OPT_EXPIRES)
        printf("  --expires SECONDS              life of the invite, default 86400\n");
    if (cmd->options & CS_OPT_DISTRUST)
        printf("  --distrust                     also everyone whom it let in\n");
    if (cmd->options & CS_OPT_REMOVE)
        printf("  --remove                       no passphrase: file permissions alone protect the keys\n");
    if (cmd->options & CS_OPT_STATUS)
        printf("  --local                        only what this device knows: the hub is not asked\n"
               "  --watch                        again and again, until Ctrl-C\n");
    if (cmd->options & CS_OPT_CHOICE)
        printf("  --take                         the value that lost\n"
               "  --value VALUE                  another one\n");
    if (cmd->options & CS_OPT_QR)
        printf("  --qr                           as a QR code although this is no terminal\n");
    printf("\n");
    cs_cli_print_options();
    return CS_EXIT_DONE;
}

/* The command that argv names, and how many words name it. */
static const struct cs_cli_command *find_command(int argc, char **argv, int *words)
{
    for (int i = 0; i < NCOMMANDS; i++) {
        const char *space = strchr(commands[i].name, ' ');
        size_t n = space == NULL ? strlen(commands[i].name) : (size_t)(space - commands[i].name);

        *words = space == NULL ? 1 : 2;
        if (argc < *words || strlen(argv[0]) != n || strncmp(argv[0], commands[i].name, n) != 0)
            continue;
        if (space == NULL || strcmp(argv[1], space + 1) == 0)
            return &commands[i];
    }
    return NULL;
}

static bool is_help(const char *arg)
{
    return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0;
}

/* Is this the command's first word of two? */
static bool is_first_word(const char *word, const struct cs_cli_command *cmd)
{
    size_t len = strlen(word);

    return strncmp(cmd->name, word, len) == 0 && cmd->name[len] == ' ';
}

/* Of all commands that begin with this word; false: none does. */
static bool print_help_of(const char *word)
{
    bool any = false;

    for (int i = 0; i < NCOMMANDS; i++) {
        if (!is_first_word(word, &commands[i]))
            continue;
        if (!any)
            printf("usage: claw-sync %s COMMAND [OPTION ...]\n\n"
                   "commands (claw-sync %s COMMAND --help tells more):\n",
                   word, word);
        any = true;
        print_summary(&commands[i]);
    }
    return any;
}

/* A first word that begins several commands: which. */
static int unknown_command(const struct cs_cli *c, const char *word)
{
    char list[200] = "";
    size_t n = 0;

    for (int i = 0; i < NCOMMANDS && n < sizeof list; i++)
        if (is_first_word(word, &commands[i]))
            n += (size_t)snprintf(list + n, sizeof list - n, "%s claw-sync %s", n > 0 ? "," : "", commands[i].name);
    if (n > 0)
        return cs_cli_usage(c, "which one:%s? claw-sync --help tells what they do", list);
    return cs_cli_usage(c, "no command \"%s\"; claw-sync --help lists them", word);
}

/* Is what was printed where it is to be? A pipe whose reader has left (`| head`) is told by the exit code alone, unless
 * something was made that nobody knows of now. */
static int check_output(const struct cs_cli *c, int rc)
{
    fflush(stdout);
    if (ferror(stdout) == 0 || c->only_news)
        return rc;
    errno = 0; /* the reason is gone by now; one more byte is refused for the same */
    putchar('\n');
    fflush(stdout);
    if (errno != EPIPE || c->made != NULL)
        fprintf(stderr, "claw-sync: cannot write to standard output%s%s%s%s\n", errno != 0 ? ": " : "",
                errno != 0 ? strerror(errno) : "", c->made != NULL ? "; " : "", c->made != NULL ? c->made : "");
    return rc == CS_EXIT_DONE ? CS_EXIT_FAILED : rc;
}

static int run(struct cs_cli *c, int argc, char **argv)
{
    const struct cs_cli_command *cmd = &commands[0];
    clawsync_error err;
    int words = 0;

    if (argc > 0 && (is_help(argv[0]) || strcmp(argv[0], "help") == 0)) {
        print_usage();
        return CS_EXIT_DONE;
    }
    if (argc > 0 && strcmp(argv[0], "--version") == 0)
        return cs_cmd_version(c);
    if (argc > 0 && argv[0][0] != '-' && (cmd = find_command(argc, argv, &words)) == NULL)
        return argc > 1 && is_help(argv[1]) && print_help_of(argv[0]) ? CS_EXIT_DONE : unknown_command(c, argv[0]);
    c->command = cmd->name;
    for (int i = words; i < argc; i++)
        if (is_help(argv[i]))
            return print_command_help(cmd);
    if (cs_cli_parse(c, cmd, argc - words, argv + words, &err) != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    return cmd->run(c);
}

int cs_cli_main(int argc, char **argv, struct cs_world *w)
{
    struct cs_cli c = { .world = w, .keystore_fd = -1, .tty = isatty(STDERR_FILENO) == 1 };
    int rc = check_output(&c, run(&c, argc - 1, argv + 1));

    cs_arena_free(&c.strings);
    return rc;
}
