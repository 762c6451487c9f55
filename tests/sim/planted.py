"""The test of clawsim: plants one bug at a time in the hub, the engine and the replica, and demands that clawsim finds it.

  planted.py BUILD_DIR [--seeds N] [NAME ...]      default: every bug, at most 1000 seeds each

A bug is a line of the source changed for another. Only its file is compiled again; everything else comes from BUILD_DIR,
where clawsim must have been built."""
import json, os, shlex, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# name, file, what stands there once, what stands there instead
BUGS = [
    # the hub
    ("log_skips_a_number", "hub/commit.c", ".number = head.number + 1,", ".number = head.number + 1 + (head.number == 9),"),
    ("commit_failed_and_acknowledged", "hub/commit.c", "            w[i]->verdict = v;\n", "            continue;\n"),
    ("head_not_written", "hub/commit.c", "if (places[i].dirty)", "if (places[i].dirty && places[i].head.number % 8 != 5)"),
    ("device_place_forgotten", "hub/commit.c", "d = { .number = b->h.number,", "d = { .number = b->h.number - 1,"),
    ("hub_does_not_sync", "hub/store_sqlite.c", "PRAGMA synchronous=FULL;", "PRAGMA synchronous=OFF;"),
    ("page_misses_its_last", "hub/store_sqlite.c", "number BETWEEN ?2 AND ?3 ORDER BY number",
     "number BETWEEN ?2 AND ?3 - (?3 % 7 = 3) ORDER BY number"),
    ("chunks_cut_short", "hub/store_sqlite.c", "AND seq>=?3 ORDER BY seq", "AND seq>=?3 AND seq<2 ORDER BY seq"),
    # push
    ("refused_taken_for_sent", "engine/push.c", "    if (!r->accepted) {\n", "    if (!r->accepted && s->acked > 0) {\n"),
    ("bound_ones_forgotten", "engine/push.c", "if (s->nflight == CS_PUSH_MAX)", "if (i > 0)\n            break;\n        if (s->nflight == CS_PUSH_MAX)"),
    ("rebound_to_the_old_one", "engine/push.c", "        memcpy(prev, s->batch.hash, 32);\n", ""),
    ("taken_back_and_dropped", "engine/push.c", "    if (rc == CS_OK && nwaiting > 0)\n", "    if (rc == CS_OK && nwaiting > 1)\n"),
    ("bound_without_sync", "replica/bound.c", "PRAGMA main.synchronous=FULL", "PRAGMA main.synchronous=OFF"),
    ("bound_and_extracted_again", "replica/bound.c", "        rc = cs_extract_drop_taken(r, err);\n", "        rc = CS_OK;\n"),
    ("bound_apart_from_extract", "replica/bound.c", "if ((rc = insert_bound(r, number, hash, stored, err)) == CS_OK)",
     "if ((rc = number % 4 == 3 ? CS_OK : insert_bound(r, number, hash, stored, err)) == CS_OK)"),
    ("unbound_in_part", "replica/bound.c", "for (size_t i = n; i > 0 && rc == CS_OK; i--)", "for (size_t i = n; i > 1 && rc == CS_OK; i--)"),
    # pull
    ("batch_skipped", "engine/pull.c", "rc = advance(e, &mark, h, &delta, &result, err);",
     "rc = advance(e, &mark, h, s->log_number % 11 == 7 ? NULL : &delta, &result, err);"),
    ("own_batches_not_fetched_back", "engine/pull.c", "if (s->header_only && !s->own_in_full) {", "if (s->header_only) {"),
    ("members_not_fetched", "engine/pull.c", "        s->need_member = true;\n", "        s->need_member = false;\n"),
    ("restored_backup_not_noticed", "engine/incarnation.c", "e->recovering = memcmp(e->ks->place, place, 32) != 0 || is_older(e);", "e->recovering = memcmp(e->ks->place, place, 32) != 0;"),
    ("sealed_anew_below_others", "engine/push.c", "    if (mark.top_stamp > highest)
", "    if (false)
"),
    ("long_push_goes_round", "engine/push.c", "if (s->loaded && s->made >= FAIR_SHARE", "if (s->made >= FAIR_SHARE"),
    # sealing and applying
    ("clock_not_saved", "replica/db.c", 'return cs_meta_put_int(r, "hlc", r->hlc, err);', 'return r->hlc == 0 ? cs_meta_put_int(r, "hlc", r->hlc, err) : CS_OK;'),
    ("changelog_cut_too_far", "replica/db.c", "DELETE FROM main.sync_changelog WHERE seq <= ?1", "DELETE FROM main.sync_changelog WHERE seq <= ?1 + 1"),
    ("clock_not_raised", "replica/apply.c", "b->r->hlc = cs_hlc_receive(b->r->hlc, b->op->stamp);", "b->r->hlc = b->r->hlc;"),
]


def commands(build):
    with open(os.path.join(build, "compile_commands.json")) as f:
        compile_of = {os.path.relpath(c["file"], ROOT): shlex.split(c["command"]) for c in json.load(f)}
    text = subprocess.run(["ninja", "-C", build, "-t", "commands", "bin/clawsim"], check=True, capture_output=True, text=True).stdout
    link = [w for w in shlex.split(text.strip().splitlines()[-1]) if w not in (":", "&&")]
    return compile_of, link


def plant(bug, build, work, compile_of, link):
    """The program with the bug in it, or why there is none."""
    name, path, old, new = bug
    with open(os.path.join(ROOT, "src", path)) as f:
        source = f.read()
    if source.count(old) != 1:
        return None, f"its line stands {source.count(old)} times in src/{path}"
    changed, obj, program = (os.path.join(work, name + end) for end in (".c", ".o", ""))
    with open(changed, "w") as f:
        f.write(source.replace(old, new))
    command = compile_of[os.path.join("src", path)]
    command = [changed if w.endswith("/src/" + path) else w for w in command]
    command[command.index("-o") + 1] = obj
    made = subprocess.run(command + ["-w"], cwd=build, capture_output=True, text=True)
    if made.returncode == 0:
        command = list(link)
        command[command.index("-o") + 1] = program
        command.insert(next(i for i, w in enumerate(command) if w.endswith(".a")), obj)
        made = subprocess.run(command, cwd=build, capture_output=True, text=True)
    return (program, "") if made.returncode == 0 else (None, made.stderr)


def find(program, seeds):
    """The seed that finds it, or None."""
    for seed in range(1, seeds + 1):
        try:
            run = subprocess.run([program, "--seed", str(seed), "--no-shrink"], capture_output=True, timeout=120)
        except subprocess.TimeoutExpired:
            return seed  # it goes round in circles
        if run.returncode != 0:
            return seed
    return None


def main():
    args = sys.argv[1:]
    seeds = 1000
    if "--seeds" in args:
        i = args.index("--seeds")
        seeds = int(args[i + 1])
        del args[i:i + 2]
    build = os.path.abspath(args[0])
    bugs = [b for b in BUGS if len(args) == 1 or b[0] in args[1:]]
    compile_of, link = commands(build)
    missed = 0
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(2) as pool:
        def one(bug):
            program, why = plant(bug, build, work, compile_of, link)
            seed = find(program, seeds) if program else None
            return bug[0], why or ("not noticed" if seed is None else ""), seed
        for name, why, seed in pool.map(one, bugs):
            missed += bool(why)
            print(f"{name:34} {why.upper() if why == 'not noticed' else why or f'seed {seed}'}", flush=True)
    print(f"{len(bugs)} planted bugs, {missed} not noticed")
    return 1 if missed else 0


sys.exit(main())
