"""The hub's admin port: metrics, the page in a browser, its token; and the hub's log."""
import http.client
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
import urllib.request

import claw


class AdminCase(claw.ClawTest):
    def start_hub(self, **env):
        hub = super().start_hub(**{"CLAW_SYNC_ADMIN_ADDR": "0"} | env)
        self.admin = int(re.search(r"admin page on http://127\.0\.0\.1:(\d+)/", hub.log.read_text())[1])
        return hub

    def ask(self, path, method="GET", **headers):
        c = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=claw.PATIENCE)
        c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = c.getresponse()
        body = answer.read().decode()
        c.close()
        return answer.status, body

    def metrics(self, **headers):
        """The samples by name and labels; what is no valid exposition fails."""
        status, text = self.ask("/metrics", **headers)
        self.assertEqual(status, 200)
        samples, kinds = {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name, kind = line.split()[2:]
                self.assertNotIn(name, kinds)
                kinds[name] = kind
            elif not line.startswith("# HELP "):
                m = re.fullmatch(r'([a-z_]+)(\{([a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*)\})? (\d+(\.\d+)?)', line)
                self.assertIsNotNone(m, line)
                base = re.sub(r"_(bucket|sum|count)$", "", m[1])
                self.assertTrue(m[1] in kinds or kinds.get(base) == "histogram", line)
                self.assertNotIn((m[1], m[3]), samples)
                samples[m[1], m[3]] = float(m[5])
        for (name, labels), value in samples.items():
            if name.endswith("_bucket") and 'le="+Inf"' in labels:
                rest = re.sub(r',?le="\+Inf"', "", labels) or None
                self.assertEqual(value, samples[name[:-7] + "_count", rest])
        return samples


class AdminTest(AdminCase):
    def test_metrics_tell_what_was_done(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('one', 'a canary in the coal mine')")
        a.sync()
        before = self.metrics()
        self.assertEqual(before["claw_sync_workspaces", None], 1)
        self.assertEqual(before["claw_sync_log_entries", None], 1)
        self.assertEqual(before["claw_sync_stored_batches_total", None], 1)
        self.assertGreater(before["claw_sync_stored_bytes_total", None], 0)
        self.assertEqual(before["claw_sync_stored_bytes_total", None], before["claw_sync_stored_ciphertext_bytes", None])
        self.assertGreater(before["claw_sync_commit_seconds_count", None], 0)
        self.assertGreater(before["process_resident_memory_bytes", None], 1000000)
        self.assertTrue([v for (name, labels), v in before.items()
                         if name == "claw_sync_calls_total" and labels.startswith('method="Push"')])
        b.sync()
        b.sql("INSERT INTO memories(id, content) VALUES ('two', 'x')")
        b.sync()
        after = self.metrics()
        self.assertEqual(after["claw_sync_given_batches_total", None] - before["claw_sync_given_batches_total", None], 2)
        ids = [json.loads(d.claw("status", "--local", "--json").stdout)["device_id"] for d in (a, b)]
        lag = [after["claw_sync_device_lag_entries", f'workspace="{self.workspace}",device="{i}"'] for i in ids]
        self.assertEqual(lag, [1, 0])
        self.assertNotIn("canary", self.ask("/metrics")[1])

    def test_the_dashboard_asks_for_what_there_is(self):
        self.workspace_of(1)
        text = self.ask("/metrics")[1]
        board = json.loads((claw.ROOT / "dist" / "grafana" / "claw-sync-hub.json").read_text())
        asked = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
        asked += [v["query"] for v in board["templating"]["list"]]
        names = {n for expr in asked for n in re.findall(r"\b(?:claw_sync|process)_[a-z_]+", expr)}
        self.assertGreater(len(names), 20)
        for name in names:
            self.assertRegex(text, rf"(?m)^{name}[ {{]")
        for label in {x for expr in asked for x in re.findall(r"by \((?:le, )?([a-z]+)\)", expr)}:
            self.assertRegex(text, rf'[{{,]{label}="')

    def test_refusals_are_counted_and_named(self):
        self.workspace_of(1)
        b = self.device("b")
        b.claw("sync", want=2)  # the workspace exists, and b is no member
        state = json.loads(self.ask("/state.json")[1])
        self.assertIn({"method": "RegisterDevice", "code": "ALREADY_EXISTS", "kind": "validation"},
                      [{k: r[k] for k in ("method", "code", "kind")} for r in state["refusals"]])
        self.assertEqual([w["id"] for w in state["workspaces"]], [self.workspace])
        self.assertEqual(self.metrics()["claw_sync_refused_calls_total", None], state["totals"]["refused"])

    def test_only_this_machine_or_a_token(self):
        self.start_hub()
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            self.assertEqual(self.ask("/metrics", Host=host)[0], 403, host)
            self.assertEqual(self.ask("/state.json", Host=host)[0], 403, host)
        self.assertEqual(self.ask("/metrics", Host=f"localhost:{self.admin}")[0], 200)
        self.assertEqual(self.ask("/metrics", method="POST")[0], 405)
        self.assertEqual(self.ask("/nothing")[0], 404)
        self.assertEqual(self.ask("/healthz", Host="any.example"), (200, "ok\n"))
        self.hub.stop()
        token = secrets.token_hex(20)
        self.start_hub(CLAW_SYNC_ADMIN_TOKEN=token)
        for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {token[:-1]}"},
                      {"Authorization": f"Bearer {token}0"}, {"Authorization": token}):
            self.assertEqual(self.ask("/metrics", **wrong)[0], 401, wrong)
        self.assertGreater(len(self.metrics(Authorization=f"Bearer {token}", Host="hub.example")), 20)
        self.assertNotIn(token, self.hub.log.read_text())

    def test_wrong_settings_exit_2(self):
        for env, word in (({"CLAW_SYNC_ADMIN_ADDR": "0.0.0.0:0"}, "CLAW_SYNC_ADMIN_TOKEN"),
                          ({"CLAW_SYNC_ADMIN_ADDR": "nowhere"}, "HOST:PORT"),
                          ({"CLAW_SYNC_ADMIN_ADDR": "0", "CLAW_SYNC_ADMIN_TOKEN": "short"}, "32"),
                          ({"CLAW_LOG_LEVEL": "loud"}, "debug"), ({"CLAW_LOG_FORMAT": "xml"}, "json")):
            done = subprocess.run([claw.SERVER, "--check-config"], env=claw.clean_env(**env), capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, env)
            self.assertIn(word, done.stderr)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            done = subprocess.run([claw.SERVER, "--listen", "127.0.0.1:0", "--data-dir", self.folder / "hub",
                                   "--admin", str(taken.getsockname()[1])],
                                  env=claw.clean_env(), capture_output=True, text=True, timeout=claw.PATIENCE)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("in use", done.stderr)

    def test_json_log_and_its_level(self):
        self.start_hub(CLAW_LOG_FORMAT="json")
        lines = lambda: [json.loads(x) for x in self.hub.log.read_text().splitlines()]
        self.assertTrue(all({"time", "level", "event", "message"} <= x.keys() for x in lines()))
        a = self.device("a")
        a.sql("INSERT INTO memories(id, content) VALUES ('one', 'a canary in the coal mine')")
        a.sync()
        self.assertEqual([x for x in lines() if x["level"] == "debug"], [])
        (self.hub.folder / "data" / "log_level").write_text("debug\n")
        self.hub.process.send_signal(signal.SIGHUP)

        def calls():
            a.sync()
            return [x for x in lines() if x["event"] == "call"]
        seen = claw.wait_until(calls, "calls in the log")
        self.assertTrue({"id", "method", "status", "us", "peer", "workspace", "device"} <= seen[0].keys())
        self.assertEqual(len({x["id"] for x in seen}), len(seen))
        self.assertNotIn("canary", self.hub.log.read_text())
        (self.hub.folder / "data" / "log_level").write_text("shout\n")
        self.hub.process.send_signal(signal.SIGHUP)
        claw.wait_until(lambda: any("log_level" in x["message"] for x in lines()), "a warning of the level")


class Browser:
    """Headless Chromium, by WebDriver (W3C) over HTTP."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.port = s.getsockname()[1]
        self.process = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env=claw.clean_env(TMPDIR=folder))
        claw.wait_until(self._ready, "chromedriver")
        args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
                "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,900",
                "--disable-dev-shm-usage", f"--user-data-dir={folder}/chromium"]
        options = {"binary": shutil.which("chromium"), "args": args}
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})["sessionId"]

    def _ready(self):
        try:
            return self.call("GET", "/status")["ready"]
        except OSError:
            return False

    def call(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method,
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=claw.PATIENCE) as answer:
            return json.load(answer)["value"]

    def here(self, method, path, body=None):
        return self.call(method, f"/session/{self.session}{path}", body)

    def run(self, script, *args):
        return self.here("POST", "/execute/sync", {"script": script, "args": list(args)})

    def open(self, url):
        self.here("POST", "/url", {"url": url})

    def close(self):
        try:
            self.here("DELETE", "")
        except OSError:
            pass
        self.process.terminate()
        self.process.wait(claw.PATIENCE)


class PageTest(AdminCase):
    def setUp(self):
        super().setUp()
        self.browser = Browser(self.folder)

    def tearDown(self):
        self.browser.close()
        super().tearDown()

    def text(self, selector):
        return self.browser.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)

    def figure(self, name):
        found = [x.split("\n")[1] for x in self.text("dl div") if x.startswith(name + "\n")]
        return found[0] if found else None

    def test_the_page_shows_the_hub_live(self):
        a, b = self.workspace_of(2)
        a.sync()
        self.browser.open(f"http://127.0.0.1:{self.admin}/")
        claw.wait_until(lambda: self.text("#workspaces tr"), lambda: f"a workspace on the page: {self.text('body')}")
        self.assertIn(self.workspace, self.text("#workspaces tr")[0])
        self.assertTrue(self.text("#state")[0].startswith("serving"))
        self.assertEqual(self.figure("Workspaces"), "1")
        was = self.figure("Log entries")
        a.sql("INSERT INTO memories(id, content) VALUES ('one', 'x')")
        a.sync()
        claw.wait_until(lambda: self.figure("Log entries") != was, "the page to follow")
        claw.wait_until(lambda: len(self.text("#charts figure")) == 4, "charts")
        b.sync()
        claw.wait_until(lambda: "up to date" in self.text("#workspaces tr")[0], "b's lag")
        # everything came from here, and nothing went wrong
        loaded = self.browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        self.assertTrue(loaded and all(x.startswith(f"http://127.0.0.1:{self.admin}/") for x in loaded), loaded)
        self.assertEqual([x for x in self.browser.here("POST", "/se/log", {"type": "browser"}) if x["level"] == "SEVERE"], [])
        self.accessible()
        self.hub.stop()
        claw.wait_until(lambda: self.text("#state")[0] == "the hub does not answer", "the hub's end on the page")

    def accessible(self):
        """What can be checked without a person: language, title, one h1, headed tables, named charts, contrast."""
        self.assertEqual(self.browser.run("return document.documentElement.lang"), "en")
        self.assertTrue(self.browser.run("return document.title"))
        self.assertEqual(self.browser.run("return document.querySelectorAll('h1').length"), 1)
        self.assertEqual(self.browser.run("return document.querySelectorAll('th:not([scope])').length"), 0)
        self.assertEqual(self.browser.run("return document.querySelectorAll('svg:not([aria-label])').length"), 0)
        for scheme in ("light", "dark"):
            self.browser.here("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {
                "features": [{"name": "prefers-color-scheme", "value": scheme}]}})
            worst = self.browser.run("""
                const rgb = (s) => s.match(/[\\d.]+/g).slice(0, 3).map(Number);
                const light = (c) => { const [r, g, b] = c.map(v => { v /= 255;
                    return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126*r + .7152*g + .0722*b; };
                const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                    if (!/, 0\\)$/.test(c)) return rgb(c); } return [255, 255, 255]; };
                let worst = 21;
                for (const e of document.querySelectorAll('body *'))
                    if (e.innerText && e.children.length === 0 && e.getClientRects().length) {
                        const x = light(rgb(getComputedStyle(e).color)), y = light(back(e));
                        worst = Math.min(worst, (Math.max(x, y) + .05) / (Math.min(x, y) + .05)); }
                return worst""")
            self.assertGreaterEqual(worst, 4.5, f"contrast, {scheme}")

    def test_the_page_asks_for_the_token(self):
        token = secrets.token_hex(20)
        self.start_hub(CLAW_SYNC_ADMIN_TOKEN=token)
        self.browser.open(f"http://127.0.0.1:{self.admin}/")
        claw.wait_until(lambda: self.browser.run("return !document.getElementById('ask').hidden"), "the question")
        self.assertEqual(self.text("dl div"), [])
        self.browser.run("document.getElementById('token').value = arguments[0]; "
                         "document.querySelector('#ask button').click()", token)
        claw.wait_until(lambda: self.figure("Workspaces") == "0", "figures")


if __name__ == "__main__":
    claw.main()
