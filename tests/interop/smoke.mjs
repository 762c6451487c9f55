// The hub as a client of another implementation sees it: status codes, trailers, streams, deadlines, cancellation.
// usage: node smoke.mjs SERVER PROTO_DIR
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'
import { start } from './hub.mjs'

const [server, protoDir] = process.argv.slice(2)
const definition = loader.loadSync('clawsync/v1/sync.proto', { includeDirs: [protoDir], keepCase: true, defaults: true, longs: String })
const { SyncService } = grpc.loadPackageDefinition(definition).clawsync.v1

const unary = (client, method, request, options = {}) => new Promise(resolve => {
  client[method](request, new grpc.Metadata(), { deadline: Date.now() + 10000, ...options },
    (error, answer) => resolve(error ?? { code: grpc.status.OK, answer }))
})

const collect = stream => new Promise(resolve => {
  const messages = []
  stream.on('data', m => messages.push(m))
  stream.on('error', error => resolve({ code: error.code, details: error.details, metadata: error.metadata, messages }))
  stream.on('end', () => resolve({ code: grpc.status.OK, messages }))
})

const isRefusal = (result, code, kind, text) => {
  assert.equal(result.code, code, result.details)
  assert.deepEqual(result.metadata.get('error-kind'), [kind])
  if (text) assert.match(result.details, text)
}

const ids = () => ({ workspace_id: randomUUID(), device_id: randomUUID() })
const cursor = () => ({ ...ids(), lamport_clock: 0 })

const tests = {
  async 'Heartbeat of an unknown workspace' (client) {
    isRefusal(await unary(client, 'Heartbeat', ids()), grpc.status.UNAUTHENTICATED, 'auth', /unknown device or wrong key/)
  },
  async 'Heartbeat of something that is no UUID' (client) {
    isRefusal(await unary(client, 'Heartbeat', { workspace_id: 'x' }), grpc.status.INVALID_ARGUMENT, 'validation')
  },
  async 'Pull of an unknown workspace' (client) {
    const result = await collect(client.Pull({ client_cursor: cursor() }))
    isRefusal(result, grpc.status.UNAUTHENTICATED, 'auth')
    assert.equal(result.messages.length, 0)
  },
  async 'Watch and GetMembership of an unknown workspace' (client) {
    isRefusal(await collect(client.Watch(ids())), grpc.status.UNAUTHENTICATED, 'auth')
    isRefusal(await collect(client.GetMembership(ids())), grpc.status.UNAUTHENTICATED, 'auth')
  },
  async 'RegisterDevice with a garbage entry' (client) {
    const device = { ...ids(), public_key_b64: randomBytes(32).toString('base64') }
    const request = { device, box_public_key: randomBytes(32), signed_challenge: randomBytes(64), membership_entry: randomBytes(500) }
    isRefusal(await unary(client, 'RegisterDevice', request), grpc.status.INVALID_ARGUMENT, 'validation')
    isRefusal(await unary(client, 'RegisterDevice', { ...request, membership_entry: Buffer.alloc(0) }), grpc.status.UNAUTHENTICATED, 'auth')
    isRefusal(await unary(client, 'RegisterDevice', {}), grpc.status.INVALID_ARGUMENT, 'validation')
  },
  async 'AppendMembership with a garbage entry' (client) {
    isRefusal(await unary(client, 'AppendMembership', { ...ids(), entry: randomBytes(300) }), grpc.status.INVALID_ARGUMENT, 'validation')
  },
  async 'Push answers malformed batches in order and goes on' (client) {
    const call = client.Push()
    const done = collect(call)
    for (let i = 0; i < 5; i++) {
      call.write({ chunks: [{ chunk_id: 'x', seq: i, total: 1, encrypted_payload: randomBytes(100), payload_hash: randomBytes(32) }] })
    }
    call.end()
    const { code, messages } = await done
    assert.equal(code, grpc.status.OK)
    assert.equal(messages.length, 5)
    for (const m of messages) {
      assert.equal(m.accepted, false)
      assert.equal(m.status, grpc.status.INVALID_ARGUMENT)
      assert.equal(m.kind, 'malformed')
      assert.ok(m.reason.length > 0)
    }
  },
  async 'a request above the limit' (client) {
    const result = await unary(client, 'Heartbeat', { ...ids(), workspace_id: 'x'.repeat(2 * 1024 * 1024) })
    assert.equal(result.code, grpc.status.RESOURCE_EXHAUSTED, result.details)
  },
  async 'methods that are not offered' (client) {
    isRefusal(await unary(client, 'Reconcile', ids()), grpc.status.UNIMPLEMENTED, 'validation')
    isRefusal(await unary(client, 'ResolveConflict', {}), grpc.status.UNIMPLEMENTED, 'validation')
  },
  async 'a method that nobody knows' (client) {
    const result = await new Promise(resolve => client.makeUnaryRequest('/clawsync.v1.SyncService/Nonsense',
      x => x, x => x, Buffer.alloc(0), error => resolve(error)))
    assert.equal(result.code, grpc.status.UNIMPLEMENTED)
  },
  async 'a deadline ends a stream that is open' (client) {
    const call = client.Push(new grpc.Metadata(), { deadline: Date.now() + 200 })
    assert.equal((await collect(call)).code, grpc.status.DEADLINE_EXCEEDED)
  },
  async 'a call can be given up' (client) {
    const call = client.Push()
    const done = collect(call)
    call.write({ chunks: [] })
    await new Promise(resolve => call.once('data', resolve))
    call.cancel()
    assert.equal((await done).code, grpc.status.CANCELLED)
  },
  async 'many calls at once' (client) {
    const all = await Promise.all(Array.from({ length: 300 }, () => unary(client, 'Heartbeat', ids())))
    for (const result of all) assert.equal(result.code, grpc.status.UNAUTHENTICATED)
  }
}

let failed = 0
const hub = await start(server)
const client = new SyncService(hub.address, grpc.credentials.createInsecure())
for (const [name, test] of Object.entries(tests)) {
  try {
    await test(client)
    console.log(`ok   ${name}`)
  } catch (error) {
    failed++
    console.log(`FAIL ${name}\n${error.stack}`)
  }
}
client.close()
if (await hub.stop() !== 0) {
  failed++
  console.log(`FAIL the server did not end with 0\n${hub.log}`)
}
console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
