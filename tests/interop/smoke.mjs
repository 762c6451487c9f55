// The hub as a client of another implementation sees it: sessions, proofs, refusals, status codes and trailers.
// usage: node smoke.mjs SERVER PROTO_DIR
import assert from 'node:assert/strict'
import { generateKeyPairSync, randomBytes, randomUUID, sign } from 'node:crypto'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'
import { start } from './hub.mjs'

const [server, protoDir] = process.argv.slice(2)
const definition = loader.loadSync('clawsync/v1/sync.proto', { includeDirs: [protoDir], keepCase: true, defaults: true, longs: String })
const { SyncService } = grpc.loadPackageDefinition(definition).clawsync.v1

// What a stranger can make of a proof: everything but a key that the hub knows.
const keys = generateKeyPairSync('ed25519')
let session = null
const proof = ({ id = session, counter = ++session.counter, ws = randomBytes(16), device = randomBytes(16), body = randomBytes(32), sig = null } = {}) => {
  const head = Buffer.alloc(8)
  head.writeBigUInt64BE(BigInt(counter))
  const signed = sig ?? sign(null, randomBytes(32), keys.privateKey)
  const metadata = new grpc.Metadata()
  metadata.set('authorization', 'ClawSync1 ' + Buffer.concat([id.id, head, ws, device, body, signed]).toString('base64url'))
  return metadata
}
const bare = () => new grpc.Metadata()

const unary = (client, method, request, metadata = bare(), options = {}) => new Promise(resolve => {
  client[method](request, metadata, { deadline: Date.now() + 10000, ...options },
    (error, answer) => resolve(error ?? { code: grpc.status.OK, answer }))
})

const openSession = async client => {
  const x25519 = generateKeyPairSync('x25519').publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)
  const { code, answer, details } = await unary(client, 'OpenSession', { hello: Buffer.concat([Buffer.from([1]), x25519, randomBytes(32)]) })
  assert.equal(code, grpc.status.OK, details)
  assert.equal(answer.reply.length, 145)
  assert.equal(answer.reply[0], 1)
  return { id: answer.reply.subarray(33, 49), counter: 0 }
}

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

// Every method, called in the way that fits it.
const methods = {
  RegisterDevice: (c, m) => unary(c, 'RegisterDevice', {}, m),
  Heartbeat: (c, m) => unary(c, 'Heartbeat', ids(), m),
  AppendMembership: (c, m) => unary(c, 'AppendMembership', { ...ids(), entry: randomBytes(300) }, m),
  Reconcile: (c, m) => unary(c, 'Reconcile', ids(), m),
  ResolveConflict: (c, m) => unary(c, 'ResolveConflict', {}, m),
  Pull: (c, m) => collect(c.Pull({ client_cursor: cursor() }, m)),
  Watch: (c, m) => collect(c.Watch(ids(), m)),
  GetMembership: (c, m) => collect(c.GetMembership(ids(), m)),
  Push: (c, m) => {
    const call = c.Push(m)
    const done = collect(call)
    call.write({ chunks: [] })
    call.end()
    return done
  }
}

const tests = {
  async 'a session opens' (client) {
    session = await openSession(client)
  },
  async 'a hello that is none' (client) {
    isRefusal(await unary(client, 'OpenSession', {}), grpc.status.INVALID_ARGUMENT, 'validation')
    isRefusal(await unary(client, 'OpenSession', { hello: randomBytes(64) }), grpc.status.INVALID_ARGUMENT, 'validation')
    const small = Buffer.alloc(65)
    small[0] = 1
    isRefusal(await unary(client, 'OpenSession', { hello: small }), grpc.status.INVALID_ARGUMENT, 'validation')
  },
  async 'no method without a proof' (client) {
    for (const [name, call] of Object.entries(methods)) {
      isRefusal(await call(client, bare()), grpc.status.UNAUTHENTICATED, 'new-session')
      const garbage = bare()
      garbage.set('authorization', 'Bearer x')
      isRefusal(await call(client, garbage), grpc.status.UNAUTHENTICATED, 'new-session', undefined, name)
    }
  },
  async 'no method in a session that is not there' (client) {
    for (const call of Object.values(methods)) {
      isRefusal(await call(client, proof({ id: { id: randomBytes(16) } })), grpc.status.UNAUTHENTICATED, 'new-session')
    }
  },
  async 'no method for a stranger, whatever exists' (client) {
    for (const [name, call] of Object.entries(methods)) {
      if (name === 'RegisterDevice') continue
      const body = name === 'Push' ? Buffer.alloc(32) : randomBytes(32)
      const result = await call(client, proof({ body }))
      isRefusal(result, grpc.status.UNAUTHENTICATED, 'auth', /^16 UNAUTHENTICATED: unknown device or wrong key$|^unknown device or wrong key$/)
      assert.equal(result.metadata.get('claw-mac-bin')[0].length, 32)
    }
  },
  async 'RegisterDevice with a garbage request' (client) {
    const none = () => proof({ body: Buffer.alloc(32), sig: Buffer.alloc(64) })
    isRefusal(await unary(client, 'RegisterDevice', {}, none()), grpc.status.INVALID_ARGUMENT, 'validation')
    isRefusal(await unary(client, 'RegisterDevice', { device: ids() }, none()), grpc.status.UNAUTHENTICATED, 'auth')
    isRefusal(await unary(client, 'RegisterDevice', {}, proof()), grpc.status.UNAUTHENTICATED, 'new-session')
  },
  async 'a session is of its connection' (client, address) {
    const other = new SyncService(address, grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 })
    isRefusal(await unary(other, 'Heartbeat', ids(), proof()), grpc.status.UNAUTHENTICATED, 'new-session')
    other.close()
  },
  async 'a large request of somebody unknown' (client) {
    const result = await unary(client, 'Heartbeat', { ...ids(), workspace_id: 'x'.repeat(2 * 1024 * 1024) }, proof())
    isRefusal(result, grpc.status.UNAUTHENTICATED, 'auth')
  },
  async 'a method that nobody knows' (client) {
    const result = await new Promise(resolve => client.makeUnaryRequest('/clawsync.v1.SyncService/Nonsense',
      x => x, x => x, Buffer.alloc(0), error => resolve(error)))
    assert.equal(result.code, grpc.status.UNIMPLEMENTED)
  },
  async 'many calls at once' (client) {
    const all = await Promise.all(Array.from({ length: 300 }, () => unary(client, 'Heartbeat', ids(), proof())))
    for (const result of all) assert.equal(result.code, grpc.status.UNAUTHENTICATED)
  }
}

let failed = 0
const hub = await start(server)
const client = new SyncService(hub.address, grpc.credentials.createInsecure())
for (const [name, test] of Object.entries(tests)) {
  try {
    await test(client, hub.address)
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
