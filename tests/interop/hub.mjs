// A hub for a test: its process, on a free port, with a data directory of its own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Resolves once the hub says that it listens. `stop` ends it and resolves to its exit code; `log` is what it said. */
export async function start (program) {
  const dir = mkdtempSync(join(tmpdir(), 'claw-interop-'))
  const child = spawn(program, ['--listen', '127.0.0.1:0', '--data-dir', dir], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: Object.fromEntries(Object.entries(process.env).filter(([k]) => !k.startsWith('CLAW_')))
  })
  const exit = once(child, 'exit')
  const hub = {
    log: '',
    async stop () {
      child.kill('SIGTERM')
      const [code] = await exit
      rmSync(dir, { recursive: true, force: true })
      return code
    }
  }
  await new Promise((resolve, reject) => {
    exit.then(([code]) => reject(new Error(`the hub ended with ${code}: ${hub.log}`)))
    child.stderr.on('data', data => {
      hub.log += data
      const ready = /listening on (127\.0\.0\.1:\d+)/.exec(hub.log)
      if (ready) resolve(hub.address = ready[1])
    })
  })
  return hub
}
