// Health checks and reflection of the hub, asked with the schemas that other implementations publish.
// usage: node hub_inspect.mjs SERVER
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'
import health from 'grpc-health-check'
import descriptor from 'protobufjs/ext/descriptor/index.js'
import { start } from './hub.mjs'

const [server] = process.argv.slice(2)
const SYNC = 'clawsync.v1.SyncService'
const options = { keepCase: true, enums: String, oneofs: true, defaults: true }

// the schemas of npm's @grpc/reflection, wherever it keeps them
const reflectionRoot = dirname(createRequire(import.meta.url).resolve('@grpc/reflection/package.json'))
const protos = readdirSync(reflectionRoot, { recursive: true }).filter(f => f.endsWith('/reflection.proto') && !f.includes('node_modules'))
const schema = version => {
  const file = protos.find(f => f.includes(`/${version}/`))
  return grpc.loadPackageDefinition(loader.loadSync(join(reflectionRoot, file), options)).grpc.reflection[version].ServerReflection
}
const Health = grpc.makeGenericClientConstructor(health.service, 'Health')
const open = (Service, address) => new Service(address, grpc.credentials.createInsecure())
const deadline = () => ({ deadline: Date.now() + 60000 })

const check = (client, service) => new Promise(resolve => {
  client.check({ service }, new grpc.Metadata(), deadline(), (error, answer) => resolve(error ?? { code: 0, ...answer }))
})

/** What a call's stream brings, one `next` after the other, and how it ends. */
function reader (call) {
  const messages = call[Symbol.asyncIterator]()
  const end = new Promise(resolve => call.once('status', resolve))
  return { next: async () => (await messages.next()).value, end }
}

/** Asks on one stream and collects the answers. */
async function ask (client, ...questions) {
  const call = client.ServerReflectionInfo(new grpc.Metadata(), deadline())
  const answers = []
  const done = new Promise((resolve, reject) => {
    call.on('data', answer => answers.push(answer))
    call.on('error', reject)
    call.on('end', resolve)
  })
  for (const question of questions) call.write(question)
  call.end()
  await done
  return answers
}
const file = answer => {
  assert.equal(answer.message_response, 'file_descriptor_response', JSON.stringify(answer.error_response))
  return answer.file_descriptor_response.file_descriptor_proto.map(bytes => descriptor.FileDescriptorProto.decode(bytes))
}

const tests = {
  async 'the hub and its services are healthy' ({ checks }) {
    for (const service of ['', SYNC, 'grpc.health.v1.Health', 'grpc.reflection.v1.ServerReflection']) {
      assert.equal((await check(checks, service)).status, 'SERVING', service)
    }
  },
  async 'the health of what is no service' ({ checks }) {
    for (const service of ['nobody', 'clawsync.v1', `${SYNC}.Pull`, 'clawsync.v1.PullRequest', `${SYNC}.`, `.${SYNC}`, 'x'.repeat(1000)]) {
      assert.equal((await check(checks, service)).code, grpc.status.NOT_FOUND, service)
    }
  },
  async 'a health check above the limit' ({ checks }) {
    assert.equal((await check(checks, 'x'.repeat(100000))).code, grpc.status.RESOURCE_EXHAUSTED)
  },
  async 'health checks that are none' ({ checks }) {
    for (const method of ['Check', 'Watch']) {
      const path = `/grpc.health.v1.Health/${method}`
      const status = await new Promise(resolve => {
        const call = checks.makeBidiStreamRequest(path, x => x, x => x, new grpc.Metadata(), deadline())
        call.on('data', () => {})
        call.on('error', () => {})
        call.on('status', resolve)
        call.end()
      })
      assert.equal(status.code, grpc.status.INVALID_ARGUMENT, status.details)
      const garbage = await new Promise(resolve => {
        const call = checks.makeServerStreamRequest(path, x => x, x => x, Buffer.from([0x0a, 0xff]), new grpc.Metadata(), deadline())
        call.on('data', () => {})
        call.on('error', () => {})
        call.on('status', resolve)
      })
      assert.equal(garbage.code, grpc.status.INVALID_ARGUMENT, garbage.details)
    }
  },
  async 'a watch of an unknown service stays, and can be given up' ({ checks }) {
    const call = checks.watch({ service: 'nobody' }, new grpc.Metadata(), deadline())
    call.on('error', () => {})
    assert.equal((await new Promise(resolve => call.once('data', resolve))).status, 'SERVICE_UNKNOWN')
    const status = new Promise(resolve => call.once('status', resolve))
    call.cancel()
    assert.equal((await status).code, grpc.status.CANCELLED)
  },
  async 'reflection lists the services' ({ reflections }) {
    for (const client of Object.values(reflections)) {
      const [answer] = await ask(client, { list_services: '*', host: 'here' })
      assert.deepEqual(answer.list_services_response.service.map(s => s.name).sort(), [SYNC, 'grpc.health.v1.Health',
        'grpc.reflection.v1.ServerReflection', 'grpc.reflection.v1alpha.ServerReflection'])
      assert.equal(answer.valid_host, 'here')
      assert.equal(answer.original_request.list_services, '*')
    }
  },
  async 'reflection finds files by name and by symbol' ({ reflections }) {
    const symbols = { [SYNC]: 0, [`${SYNC}.Pull`]: 0, 'clawsync.v1.HubHead': 0, 'clawsync.v1.HubHead.signed_bytes': 0, 'grpc.health.v1.HealthCheckResponse.ServingStatus': 1 }
    const names = ['clawsync/v1/sync.proto', 'grpc/health/v1/health.proto']
    for (const client of Object.values(reflections)) {
      for (const name of [...names, 'grpc/reflection/v1/reflection.proto', 'grpc/reflection/v1alpha/reflection.proto']) {
        assert.deepEqual(file((await ask(client, { file_by_filename: name }))[0]).map(f => f.name), [name])
      }
      const answers = await ask(client, ...Object.keys(symbols).map(s => ({ file_containing_symbol: s })))
      assert.deepEqual(answers.map(a => file(a)[0].name), Object.values(symbols).map(i => names[i]))
    }
  },
  async 'reflection says what it does not know' ({ reflections }) {
    const questions = [{ file_by_filename: 'x.proto' }, { file_by_filename: '' }, { file_containing_symbol: 'x' }, { file_containing_symbol: '' },
      { file_containing_symbol: 'clawsync.v1' }, { file_containing_symbol: `${SYNC}.` }, { file_containing_symbol: `${SYNC}.Nothing` },
      { file_containing_symbol: `${SYNC}x` }, { all_extension_numbers_of_type: 'x.Y' },
      { file_containing_extension: { containing_type: 'clawsync.v1.HubHead', extension_number: 7 } }]
    for (const client of Object.values(reflections)) {
      const answers = await ask(client, ...questions, { all_extension_numbers_of_type: 'clawsync.v1.HubHead' }, {})
      const [nothing, numbers] = [answers.pop(), answers.pop()]
      answers.forEach((a, i) => assert.equal(a.error_response?.error_code, grpc.status.NOT_FOUND, JSON.stringify(questions[i])))
      assert.deepEqual(numbers.all_extension_numbers_response, { base_type_name: 'clawsync.v1.HubHead', extension_number: [] })
      assert.equal(nothing.error_response.error_code, grpc.status.INVALID_ARGUMENT)
    }
  },
  async 'many questions at once are answered in order' ({ reflections: { v1 } }) {
    const answers = await ask(v1, ...Array.from({ length: 2000 }, (_, i) => i % 2 ? { list_services: `${i}` } : { file_containing_symbol: SYNC, host: `${i}` }))
    assert.equal(answers.length, 2000)
    answers.forEach((a, i) => assert.equal(i % 2 ? a.original_request.list_services : a.valid_host, `${i}`))
  },
  async 'a client made of what reflection told calls the hub' ({ reflections: { v1 }, address }) {
    const [answer] = await ask(v1, { file_containing_symbol: SYNC })
    const set = descriptor.FileDescriptorSet.encode({ file: file(answer) }).finish()
    const { SyncService } = grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(set, options)).clawsync.v1
    const client = open(SyncService, address)
    const id = '00000000-0000-4000-8000-000000000001'
    const error = await new Promise(resolve => client.Heartbeat({ workspace_id: id, device_id: id }, new grpc.Metadata(), deadline(), resolve))
    assert.equal(error.code, grpc.status.UNAUTHENTICATED)
    client.close()
  }
}

let failed = 0
async function one (name, run) {
  try {
    await run()
    console.log(`ok   ${name}`)
  } catch (error) {
    failed++
    console.log(`FAIL ${name}\n${error.stack}`)
  }
}

const hub = await start(server)
const checks = open(Health, hub.address)
const reflections = { v1: open(schema('v1'), hub.address), v1alpha: open(schema('v1alpha'), hub.address) }
for (const [name, test] of Object.entries(tests)) await one(name, () => test({ checks, reflections, address: hub.address }))

// last: the hub is gone after it
await one('who watches learns that the hub stops, and nobody holds it up', async () => {
  const [all, sync, unknown] = ['', SYNC, 'nobody'].map(service => reader(checks.watch({ service }, new grpc.Metadata(), deadline())))
  assert.deepEqual([(await all.next()).status, (await sync.next()).status, (await unknown.next()).status], ['SERVING', 'SERVING', 'SERVICE_UNKNOWN'])
  const talk = reflections.v1.ServerReflectionInfo(new grpc.Metadata(), deadline())
  talk.on('error', () => {})
  const talkEnd = new Promise(resolve => talk.once('status', resolve))
  talk.write({ list_services: '' })
  await new Promise(resolve => talk.once('data', resolve))
  const exit = hub.stop()
  assert.deepEqual([(await all.next()).status, (await sync.next()).status], ['NOT_SERVING', 'NOT_SERVING'])
  for (const watch of [all, sync, unknown]) {
    await assert.rejects(watch.next())
    assert.equal((await watch.end).code, grpc.status.UNAVAILABLE)
  }
  assert.equal((await talkEnd).code, grpc.status.UNAVAILABLE)
  assert.equal(await exit, 0)
})
console.log(`${Object.keys(tests).length + 1 - failed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
