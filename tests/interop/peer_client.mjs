// @grpc/grpc-js as a client of peer_server.c.
// usage: node peer_client.mjs TESTING_PROTO [--no-memory] [--only CASE] SERVER
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const { values: options, positionals: [proto, program] } = parseArgs({
  options: { 'no-memory': { type: 'boolean' }, only: { type: 'string' } }, allowPositionals: true
})
const { TestService, UnimplementedService, ControlService } = grpc.loadPackageDefinition(
  loader.loadSync(proto, { keepCase: true, defaults: true })).grpc.testing
const BULK = 64 * 1024
const NBULK = 1024
const MANY = 10000
const AT_ONCE = 100
const FLAT = 16 * 1024 * 1024 // how much the server may grow while 64 MiB pass through it
const PATIENCE = 60 * 1000 // milliseconds that no call here needs
const INITIAL = 'x-grpc-test-echo-initial'
const TRAILING = 'x-grpc-test-echo-trailing-bin'

// ---- the server's process ----

let server, port = 0
async function start () {
  server = spawn(program, ['--port', String(port)], { stdio: ['ignore', 'pipe', 'inherit'] })
  server.ended = once(server, 'exit')
  const [line] = await once(createInterface(server.stdout), 'line')
  port = Number(line.replace('listening on ', ''))
}
const end = async signal => {
  server.kill(signal)
  return (await server.ended)[0]
}
const peakMemory = () => Number(/VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))[1]) * 1024

// ---- calls ----

const backoff = { 'grpc.initial_reconnect_backoff_ms': 100 }
const open = (Service, more = {}) =>
  new Service(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), { ...backoff, ...more })
const metadata = pairs => {
  const m = new grpc.Metadata()
  for (const [name, value] of Object.entries(pairs)) m.set(name, value)
  return m
}
const deadline = (ms = PATIENCE) => ({ deadline: Date.now() + ms })
const payload = size => ({ body: Buffer.alloc(size) })
const large = more => ({ response_size: 314159, payload: payload(271828), ...more })
const duplex = client => client.FullDuplexCall(new grpc.Metadata(), deadline())
const ask = (sizes, body = 0, interval = 0) =>
  ({ response_parameters: sizes.map(size => ({ size, interval_us: interval })), payload: payload(body) })

/** One request, one answer; resolves to what came, with the status. */
const unary = (client, method, request, { pairs = {}, wait = false } = {}) => new Promise(resolve => {
  const seen = { code: grpc.status.OK }
  const meta = metadata(pairs)
  if (wait) meta.setOptions({ waitForReady: true })
  const call = client[method](request, meta, deadline(), (error, answer) => Object.assign(seen, error ?? { answer }))
  call.on('metadata', m => { seen.initial = m })
  call.on('status', status => resolve(Object.assign(seen, { code: status.code, details: status.details, trailing: status.metadata })))
})
const fine = result => {
  assert.equal(result.code, grpc.status.OK, result.details)
  return result
}

/** Collects what a streaming call gets; `next` waits for an answer and yields its size, `status` for the end. */
function reader (call) {
  const sizes = []
  let wake = () => {}
  const seen = { sizes, initial: null }
  call.on('metadata', m => { seen.initial = m })
  call.on('data', answer => { sizes.push(answer.payload?.body.length ?? 0); wake() })
  call.on('error', () => {}) // the status says it all
  seen.status = new Promise(resolve => call.once('status', status => { seen.over = status; wake(); resolve(status) }))
  seen.next = async () => {
    while (sizes.length === 0) {
      assert.equal(seen.over, undefined, seen.over?.details)
      await new Promise(resolve => { wake = resolve })
    }
    return sizes.shift()
  }
  return seen
}

const openCalls = async () => {
  const control = open(ControlService)
  const { answer } = fine(await unary(control, 'OpenCalls', {}))
  control.close()
  return answer.n
}
const untilIdle = async () => {
  while (await openCalls() > 0) await pause(1)
}

// ---- the cases ----

const cases = {
  async empty_unary (client) {
    fine(await unary(client, 'EmptyCall', {}))
  },
  async large_unary (client) {
    assert.equal(fine(await unary(client, 'UnaryCall', large())).answer.payload.body.length, 314159)
  },
  async too_large (client) {
    const result = await unary(client, 'UnaryCall', { payload: payload(5 * 1024 * 1024) })
    assert.equal(result.code, grpc.status.RESOURCE_EXHAUSTED, result.details)
    fine(await unary(client, 'EmptyCall', {}))
  },
  async client_streaming (client) {
    const answer = await new Promise((resolve, reject) => {
      const call = client.StreamingInputCall(new grpc.Metadata(), deadline(), (error, value) => error ? reject(error) : resolve(value))
      for (const size of [27182, 8, 1828, 45904]) call.write({ payload: payload(size) })
      call.end()
    })
    assert.equal(answer.aggregated_payload_size, 74922)
  },
  async server_streaming (client) {
    const sizes = [31415, 9, 2653, 58979]
    const seen = reader(client.StreamingOutputCall(ask(sizes), new grpc.Metadata(), deadline()))
    fine(await seen.status)
    assert.deepEqual(seen.sizes, sizes)
  },
  async ping_pong (client) {
    const call = duplex(client)
    const seen = reader(call)
    for (const [size, body] of [[31415, 27182], [9, 8], [2653, 1828], [58979, 45904]]) {
      call.write(ask([size], body))
      assert.equal(await seen.next(), size)
    }
    call.end()
    fine(await seen.status)
    assert.equal(seen.sizes.length, 0)
  },
  async empty_stream (client) {
    const call = duplex(client)
    const seen = reader(call)
    call.end()
    fine(await seen.status)
    assert.equal(seen.sizes.length, 0)
  },
  async client_compressed_unary (client) {
    const packing = open(TestService, { 'grpc.default_compression_algorithm': 2 })
    fine(await unary(packing, 'UnaryCall', large({ expect_compressed: { value: true } })))
    fine(await unary(client, 'UnaryCall', large({ expect_compressed: { value: false } })))
    packing.close()
  },
  async client_compressed_streaming () {
    const packing = open(TestService, { 'grpc.default_compression_algorithm': 2 })
    const answer = await new Promise((resolve, reject) => {
      const call = packing.StreamingInputCall(new grpc.Metadata(), deadline(), (error, value) => error ? reject(error) : resolve(value))
      call.write({ payload: payload(27182), expect_compressed: { value: true } })
      call.write({ payload: payload(45904), expect_compressed: { value: true } })
      call.end()
    })
    assert.equal(answer.aggregated_payload_size, 73086)
    packing.close()
  },
  async server_compressed_unary (client) {
    for (const value of [true, false]) {
      const { answer } = fine(await unary(client, 'UnaryCall', large({ response_compressed: { value } })))
      assert.equal(answer.payload.body.length, 314159)
    }
  },
  async server_compressed_streaming (client) {
    const parameters = [[31415, true], [92653, false], [58979, true]].map(([size, value]) => ({ size, compressed: { value } }))
    const seen = reader(client.StreamingOutputCall({ response_parameters: parameters }, new grpc.Metadata(), deadline()))
    fine(await seen.status)
    assert.deepEqual(seen.sizes, [31415, 92653, 58979])
  },
  async custom_metadata (client) {
    const pairs = { [INITIAL]: 'test_initial_metadata_value', [TRAILING]: Buffer.from([0xab, 0, 0xab, 0xff]) }
    const check = (initial, trailing) => {
      assert.deepEqual(initial.get(INITIAL), [pairs[INITIAL]])
      assert.deepEqual(trailing.get(TRAILING), [pairs[TRAILING]])
    }
    const result = fine(await unary(client, 'UnaryCall', large(), { pairs }))
    check(result.initial, result.trailing)
    const call = client.FullDuplexCall(metadata(pairs), deadline())
    const seen = reader(call)
    call.write(ask([314159], 271828))
    call.end()
    check(seen.initial ?? (await once(call, 'metadata'))[0], fine(await seen.status).metadata)
    assert.deepEqual(seen.sizes, [314159])
  },
  async status_code_and_message (client) {
    const message = 'test status message'
    for (let code = 1; code <= 16; code++) {
      const result = await unary(client, 'UnaryCall', large({ response_status: { code, message } }))
      assert.deepEqual([result.code, result.details], [code, message])
    }
    const call = duplex(client)
    const seen = reader(call)
    call.write({ response_status: { code: 2, message } })
    call.end()
    const { code, details } = await seen.status
    assert.deepEqual([code, details], [grpc.status.UNKNOWN, message])
  },
  async special_status_message (client) {
    const message = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈 and 100% %41\t\n'
    const result = await unary(client, 'UnaryCall', large({ response_status: { code: 2, message } }))
    assert.deepEqual([result.code, result.details], [grpc.status.UNKNOWN, message])
  },
  async unimplemented (client) {
    const other = open(UnimplementedService)
    for (const c of [client, other]) {
      const result = await unary(c, 'UnimplementedCall', {})
      assert.equal(result.code, grpc.status.UNIMPLEMENTED, result.details)
    }
    other.close()
  },
  async cancel_after_begin (client) {
    const error = await new Promise(resolve => {
      client.StreamingInputCall(new grpc.Metadata(), deadline(), resolve).cancel()
    })
    assert.equal(error?.code, grpc.status.CANCELLED)
    await untilIdle()
  },
  async cancel_after_first_response (client) {
    const call = duplex(client)
    const seen = reader(call)
    call.write(ask([31415], 27182))
    assert.equal(await seen.next(), 31415)
    assert.equal(await openCalls(), 1)
    call.cancel()
    assert.equal((await seen.status).code, grpc.status.CANCELLED)
    await untilIdle()
  },
  async timeout_on_sleeping_server (client) {
    const call = client.FullDuplexCall(new grpc.Metadata(), deadline(100))
    const seen = reader(call)
    call.write(ask([8], 27182, 60 * 1000 * 1000))
    assert.equal((await seen.status).code, grpc.status.DEADLINE_EXCEEDED)
    await untilIdle()
  },
  async many_messages (client) {
    const call = duplex(client)
    const seen = reader(call)
    for (let i = 0; i < MANY; i++) call.write(ask([10], 10))
    call.end()
    fine(await seen.status)
    assert.deepEqual([seen.sizes.length, new Set(seen.sizes)], [MANY, new Set([10])])
  },
  async many_streams (client) {
    const calls = Array.from({ length: AT_ONCE }, () => duplex(client)).map(call => [call, reader(call)])
    for (const [call] of calls) call.write(ask([1000], 1000))
    for (const [, seen] of calls) assert.equal(await seen.next(), 1000)
    for (const [call] of calls) call.end(ask([2000], 1000))
    for (const [, seen] of calls) {
      fine(await seen.status)
      assert.deepEqual(seen.sizes, [2000])
    }
  },
  /** A whole call goes by after every message, while the server could send all it has. */
  async slow_reader (client) {
    const before = peakMemory()
    let size = 0
    for await (const answer of client.StreamingOutputCall(ask(Array(NBULK).fill(BULK)), new grpc.Metadata(), deadline())) {
      fine(await unary(client, 'EmptyCall', {}))
      size += answer.payload.body.length
    }
    assert.equal(size, BULK * NBULK)
    assert(options['no-memory'] || peakMemory() - before < FLAT)
  },
  async slow_server (client) {
    const before = peakMemory()
    let call
    const answer = new Promise((resolve, reject) => {
      call = client.StreamingInputCall(metadata({ 'x-slow': '1' }), deadline(), (error, value) => error ? reject(error) : resolve(value))
    })
    for (let i = 0; i < NBULK; i++) {
      if (!call.write({ payload: payload(BULK) })) await once(call, 'drain')
    }
    call.end()
    assert.equal((await answer).aggregated_payload_size, BULK * NBULK)
    assert(options['no-memory'] || peakMemory() - before < FLAT)
  },
  async restart_after_drain (client) {
    const call = duplex(client)
    const seen = reader(call)
    call.write(ask([100]))
    assert.equal(await seen.next(), 100)
    server.kill('SIGTERM')
    call.write(ask([200]))
    assert.equal(await seen.next(), 200)
    call.end()
    fine(await seen.status)
    assert.equal((await server.ended)[0], 0)
    await start()
    fine(await unary(client, 'EmptyCall', {}, { wait: true }))
  },
  async restart_in_mid_stream (client) {
    const call = duplex(client)
    const seen = reader(call)
    call.write(ask([100]))
    assert.equal(await seen.next(), 100)
    await end('SIGKILL')
    assert.equal((await seen.status).code, grpc.status.UNAVAILABLE)
    assert.equal((await unary(client, 'EmptyCall', {})).code, grpc.status.UNAVAILABLE)
    await start()
    fine(await unary(client, 'EmptyCall', {}, { wait: true }))
  }
}

let failed = 0
await start()
for (const [name, run] of Object.entries(cases)) {
  if (options.only && options.only !== name) continue
  const client = open(TestService)
  try {
    await run(client)
    console.log(`ok   ${name}`)
  } catch (error) {
    failed++
    console.log(`FAIL ${name}: ${error.stack}`)
  }
  client.close()
}
await end('SIGKILL')
console.log(`${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
