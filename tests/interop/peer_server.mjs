// grpc.testing.TestService on @grpc/grpc-js, as peer_server.c has it on ours.
// usage: node peer_server.mjs TESTING_PROTO [--port N]
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const [proto, , port = '0'] = process.argv.slice(2)
const { TestService, ControlService } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true, defaults: true })).grpc.testing
let running = 0

/** Counts the call, and answers the metadata that asks for an echo; returns the trailing metadata. */
function begin (call) {
  let ended = false
  const end = () => {
    if (!ended) running--
    ended = true
  }
  running++
  call.on('cancelled', end)
  const trailers = new grpc.Metadata()
  const [initial] = call.metadata.get('x-grpc-test-echo-initial')
  if (initial !== undefined) {
    const metadata = new grpc.Metadata()
    metadata.set('x-grpc-test-echo-initial', initial)
    call.sendMetadata(metadata)
  }
  const [trailing] = call.metadata.get('x-grpc-test-echo-trailing-bin')
  if (trailing !== undefined) trailers.set('x-grpc-test-echo-trailing-bin', trailing)
  return { trailers, end }
}

const refusal = request => request.response_status && request.response_status.code !== 0
  ? Object.assign(new Error(), { code: request.response_status.code, details: request.response_status.message })
  : null
const payload = size => ({ body: Buffer.alloc(size) })

function unary (answer) {
  return (call, callback) => {
    const { trailers, end } = begin(call)
    end()
    callback(refusal(call.request), answer(call.request), trailers)
  }
}

async function input (call, callback) {
  const { trailers, end } = begin(call)
  const slow = call.metadata.get('x-slow').length > 0
  let size = 0
  try {
    for await (const request of call) {
      size += request.payload.body.length
      if (slow) await new Promise(resolve => setTimeout(resolve, 1))
    }
  } catch {
    return end() // cancelled
  }
  end()
  callback(null, { aggregated_payload_size: size }, trailers)
}

/** Waits for an event of the call, for so many milliseconds, or for the call's end. */
async function happens (call, event, ms) {
  let timer, done
  await new Promise(resolve => {
    done = resolve
    if (ms) timer = setTimeout(resolve, ms)
    if (event) call.once(event, resolve)
    call.once('cancelled', resolve)
  })
  clearTimeout(timer)
  if (event) call.off(event, done)
  call.off('cancelled', done)
}

/** Writes the answers of one request as the client takes them; false once the call is refused or over. */
async function answer (call, request) {
  const error = refusal(request)
  if (error) {
    call.emit('error', error)
    return false
  }
  for (const { size, interval_us: pause } of request.response_parameters) {
    if (pause > 0) await happens(call, null, pause / 1000)
    if (call.cancelled) return false
    if (!call.write({ payload: payload(size) })) await happens(call, 'drain')
  }
  return !call.cancelled
}

async function output (call) {
  const { trailers, end } = begin(call)
  const fine = await answer(call, call.request)
  end()
  if (fine) call.end(trailers)
}

/** Not by iterating: node's iterator of a duplex stream waits for its writing side too. */
function duplex (call) {
  const { trailers, end } = begin(call)
  let answered = Promise.resolve(true)
  call.on('data', request => {
    call.pause()
    answered = answered.then(async fine => {
      fine = fine && await answer(call, request)
      call.resume()
      return fine
    })
  })
  call.on('end', async () => {
    const fine = await answered
    end()
    if (fine) call.end(trailers)
  })
}

const server = new grpc.Server()
server.addService(TestService.service, {
  EmptyCall: unary(() => ({})),
  UnaryCall: unary(request => ({ payload: payload(request.response_size) })),
  StreamingInputCall: input,
  StreamingOutputCall: output,
  FullDuplexCall: duplex
})
server.addService(ControlService.service, { OpenCalls: (call, callback) => callback(null, { n: running }) })
server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error, bound) => {
  if (error) throw error
  console.log(`listening on ${bound}`)
})
// It ends by itself when its connections are closed: an exit could cut off what they have not sent yet.
process.once('SIGTERM', () => server.tryShutdown(() => {}))
