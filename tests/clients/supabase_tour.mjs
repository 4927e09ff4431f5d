// The tour of supabase-js, the same in Node and in a page.

import { eventReader, eventually, holds, itinerary, same } from './steps.mjs'

export function supabaseTour(library, world) {
  const { createClient, FunctionRegion } = library
  const { FunctionsFetchError, FunctionsHttpError, FunctionsRelayError } = library
  const { steps, step } = itinerary()
  // Node got a WebSocket of its own in version 22; older ones must name one, and Realtime is not visited.
  const realtime = { transport: globalThis.WebSocket ?? class {} }
  // Each client of a page would look for the session that the others keep.
  const auth = { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false }
  const connect = (key, { url = world.url, ...options } = {}) =>
    createClient(url, key, { realtime, auth, ...options })
  const supabase = connect(world.anon)

  async function answered(name, options, client = supabase) {
    const { data, error } = await client.functions.invoke(name, options)
    if (error) throw new Error(`${error}: ${await error.context?.text?.()}`)
    return data
  }

  async function refused(name, kind, options, client = supabase) {
    const { data, error } = await client.functions.invoke(name, options)
    same(data, null)
    holds(error instanceof kind, `${error?.name} is not a ${kind.name}`)
    return error.context
  }

  step("a function is called with a body", async () => {
    same(await answered('greet', { body: { name: 'Functions' } }), { message: 'Hello Functions!' })
  })

  step("a call is a POST that says who calls", async () => {
    const seen = await answered('mirror')
    same([seen.method, seen.path, seen.body], ['POST', '/mirror', ''])
    same(seen.headers.apikey, world.anon)
    holds(seen.headers['x-client-info'].startsWith('supabase-js'), seen.headers['x-client-info'])
    same(seen.auth.role, 'anon')
  })

  step("a GET has a path and a query", async () => {
    const seen = await answered('mirror/deep/er?word=na%C3%AFve&n=7', { method: 'GET' })
    same([seen.method, seen.path, seen.query], ['GET', '/mirror/deep/er', { word: 'naïve', n: '7' }])
  })

  step("other methods carry bodies too", async () => {
    for (const method of ['PUT', 'PATCH', 'DELETE']) {
      const seen = await answered('mirror', { method, body: { n: 1 } })
      same([seen.method, seen.body, seen.headers['content-type']], [method, '{"n":1}', 'application/json'])
    }
  })

  step("a string is sent as text", async () => {
    const seen = await answered('mirror', { body: 'plain words' })
    same([seen.body, seen.headers['content-type']], ['plain words', 'text/plain'])
  })

  step("bytes are sent as bytes", async () => {
    const seen = await answered('mirror', { body: Uint8Array.of(1, 0, 255).buffer })
    same([seen.body, seen.headers['content-type']], ['\u0001\u0000\u00ff', 'application/octet-stream'])
  })

  step("a blob is sent with its type", async () => {
    const seen = await answered('mirror', { body: new Blob(['# title'], { type: 'text/markdown' }) })
    same([seen.body, seen.headers['content-type']], ['# title', 'text/markdown'])
  })

  step("megabytes arrive whole", async () => {
    const seen = await answered('mirror', { body: new Uint8Array(3_000_000).buffer })
    same(seen.body, 3_000_000)
  })

  step("a form arrives with its file", async () => {
    const body = new FormData()
    body.append('title', 'naïve')
    body.append('file', new Blob(['file text'], { type: 'text/plain' }), 'notes.txt')
    const received = await answered('form', { body })
    same(received, { title: 'naïve', file: ['notes.txt', 'text/plain', 'file text'] })
  })

  step("the headers of tracing pass", async () => {
    const headers = {
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      tracestate: 'house=1',
      baggage: 'tour=yes',
      'x-retry-count': '1',
    }
    const seen = await answered('mirror', { headers })
    for (const [name, value] of Object.entries(headers)) same(seen.headers[name], value)
  })

  step("a function with CORS of its own takes headers of its own", async () => {
    const headers = { 'x-tour': 'yes' }
    const { data, error, response } = await supabase.functions.invoke('own-cors', { headers })
    same([error, data, response.headers.get('x-answer')], [null, { 'x-tour': 'yes' }, '42'])
  })

  step("a region does no harm", async () => {
    const seen = await answered('mirror', { region: FunctionRegion.EuWest1, body: { n: 1 } })
    same([seen.headers['x-region'], seen.query.forceFunctionRegion], ['eu-west-1', 'eu-west-1'])
  })

  step("an answer of JSON is read as JSON", async () => {
    same(await answered('kinds/json'), { list: [1, 2.5, null, true], text: 'naïve 🎤' })
  })

  step("an answer of text is read as text", async () => {
    same(await answered('kinds/text'), 'naïve 🎤')
  })

  step("an answer of bytes is read as a blob", async () => {
    const bytes = new Uint8Array(await (await answered('kinds/bytes')).arrayBuffer())
    same([bytes.length, bytes[128], bytes[255]], [256, 128, 255])
    same(await (await answered('kinds/pdf')).text(), '%PDF-1.7')
  })

  step("an answer of a form is read as a form", async () => {
    same((await answered('kinds/form')).get('word'), 'hello')
  })

  step("an empty answer is an empty text", async () => {
    same(await answered('kinds/nothing'), '')
  })

  step("a packed answer is unpacked", async () => {
    same(await answered('kinds/gzip'), 'unpacked')
  })

  step("a redirect is followed", async () => {
    same((await answered('kinds/redirect')).text, 'naïve 🎤')
  })

  step("a stream is read piece by piece before it ends", async () => {
    const run = `tokens?run=${crypto.randomUUID()}`
    const response = await answered(run, { method: 'GET' })
    holds(response.headers.get('content-type').startsWith('text/event-stream'), 'the type of the stream')
    const next = eventReader(response)
    for (const word of ['one', 'two', 'three 🎤']) {
      same(await next(), `data: ${word}`)
      await answered(run)
    }
    same(await next(), null)
  })

  step("the id of a request can be read", async () => {
    const { response } = await supabase.functions.invoke('kinds/text')
    holds(/^[0-9a-f-]{36}$/.test(response.headers.get('sb-request-id')), 'sb-request-id of an answer')
    const { error } = await supabase.functions.invoke('nowhere')
    same(error.context.headers.get('sb-error-code'), 'NOT_FOUND')
    same((await error.context.json()).request_id, error.context.headers.get('sb-request-id'))
  })

  step("an error that a function returns is a FunctionsHttpError with its body", async () => {
    const teapot = await refused('fails/teapot', FunctionsHttpError)
    same([teapot.status, await teapot.json()], [418, { error: 'no coffee here' }])
    const unavailable = await refused('fails/unavailable', FunctionsHttpError)
    same([unavailable.status, await unavailable.json()], [503, { error: 'try tomorrow' }])
    const raised = await refused('fails/raised', FunctionsHttpError)
    same([raised.status, await raised.json()], [409, { message: 'two of a kind' }])
  })

  step("a function that fails is a FunctionsHttpError that tells no secrets", async () => {
    const response = await refused('fails', FunctionsHttpError)
    const text = await response.text()
    same([response.status, JSON.parse(text).code], [500, 'WORKER_ERROR'])
    holds(!text.includes('secret'), text)
  })

  step("a function that is not there is a FunctionsRelayError", async () => {
    const response = await refused('nowhere', FunctionsRelayError)
    same([response.status, (await response.json()).code], [404, 'NOT_FOUND'])
  })

  step("a function that does not start is a FunctionsRelayError", async () => {
    const response = await refused('broken', FunctionsRelayError)
    same([response.status, (await response.json()).code], [503, 'BOOT_ERROR'])
  })

  step("a body that is too large is a FunctionsRelayError, however much is still to be sent", async () => {
    const response = await refused('small', FunctionsRelayError, { body: new Uint8Array(8_000_000).buffer })
    same([response.status, (await response.json()).code], [413, 'PAYLOAD_TOO_LARGE'])
  })

  step("a key of another project is a FunctionsRelayError", async () => {
    const response = await refused('mirror', FunctionsRelayError, {}, connect(world.foreign))
    same([response.status, (await response.json()).code], [401, 'UNAUTHORIZED_LEGACY_JWT'])
  })

  step("a plain fetch without a key can read why it was refused", async () => {
    const response = await fetch(`${world.url}/functions/v1/mirror`)
    same([response.status, response.headers.get('sb-error-code')], [401, 'UNAUTHORIZED_NO_AUTH_HEADER'])
    same((await response.json()).code, 'UNAUTHORIZED_NO_AUTH_HEADER')
  })

  step("nobody there is a FunctionsFetchError", async () => {
    const cause = await refused('mirror', FunctionsFetchError, {}, connect(world.anon, { url: world.nobody }))
    same(cause.name, 'TypeError')
  })

  async function cancelledBy(giveUp) {
    const before = (await answered('slow', { method: 'GET' })).cancelled
    const cause = await refused('slow', FunctionsFetchError, giveUp())
    same(cause.name, 'AbortError')
    const counted = async () => (await answered('slow', { method: 'GET' })).cancelled === before + 1
    await eventually(counted, 'the function is cancelled')
  }

  step("a timeout gives up, and the function is cancelled", () => cancelledBy(() => ({ timeout: 100 })))

  step("an abort gives up, and the function is cancelled", () =>
    cancelledBy(() => {
      const controller = new AbortController()
      setTimeout(() => controller.abort(), 100)
      return { signal: controller.signal }
    }))

  step("a publishable key stands for the anonymous role", async () => {
    const seen = await answered('mirror', {}, connect(world.publishable))
    same([seen.auth.role, seen.headers.apikey], ['anon', world.publishable])
  })

  step("a user's token names the user, by setAuth", async () => {
    const { functions } = connect(world.publishable)
    functions.setAuth(world.user)
    const { data, error } = await functions.invoke('mirror')
    same([error, data?.auth.sub, data?.auth.role], [null, 'user-1', 'authenticated'])
  })

  step("a user's token names the user, by accessToken", async () => {
    const client = connect(world.anon, { accessToken: async () => world.user })
    same((await answered('mirror', {}, client)).auth.sub, 'user-1')
  })

  step("a user's token names the user, by a header of the call", async () => {
    const headers = { Authorization: `Bearer ${world.user}` }
    same((await answered('mirror', { headers })).auth.sub, 'user-1')
  })

  return steps
}
