// supabase-js in a page in Chromium: reads the world from its input, prints the report.

import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

import { chromium } from 'playwright-core'

import { eventually, itinerary, same, walk } from './steps.mjs'

const LIBRARY = 'node_modules/@supabase/supabase-js/dist/umd/supabase.js'
const PAGE = '<!doctype html><meta charset="utf-8"><title>tour</title><script src="/supabase.js"></script>'
const SERVED = {
  '/': ['text/html', async () => PAGE],
  '/favicon.ico': ['image/png', async () => ''],
  '/supabase.js': ['text/javascript', () => readFile(LIBRARY)],
  '/page.mjs': ['text/javascript', () => readFile('page.mjs')],
  '/steps.mjs': ['text/javascript', () => readFile('steps.mjs')],
  '/supabase_tour.mjs': ['text/javascript', () => readFile('supabase_tour.mjs')],
}
const QUIET = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

async function serve() {
  const server = createServer(async (request, response) => {
    const [type, read] = SERVED[request.url]
    response.setHeader('content-type', type)
    response.end(await read())
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server
}

// The preflights that the browser really sends, and how they are answered.
async function watchPreflights(page) {
  const preflights = new Map()
  const session = await page.context().newCDPSession(page)
  session.on('Network.requestWillBeSent', ({ requestId, request, initiator }) => {
    const { url, method } = request
    if (initiator.type === 'preflight') preflights.set(requestId, { url, method })
  })
  session.on('Network.responseReceived', ({ requestId, response }) => {
    if (preflights.has(requestId)) preflights.get(requestId).status = response.status
  })
  await session.send('Network.enable')
  return preflights
}

async function visit(browser, origin, world) {
  const page = await browser.newPage()
  const preflights = await watchPreflights(page)
  await page.goto(origin)
  const report = await page.evaluate(async (told) => (await import('/page.mjs')).tour(told), world)
  const { steps, step } = itinerary()

  step("the browser asks before it calls, and is answered", async () => {
    const seen = [...preflights.values()].filter(({ url }) => url.startsWith(world.url))
    await eventually(() => seen.every(({ status }) => status), 'all are answered')
    const asked = seen.filter(({ url }) => url.endsWith('/functions/v1/greet'))
    same(asked, [{ url: `${world.url}/functions/v1/greet`, method: 'OPTIONS', status: 204 }])
    const byFunctions = seen.filter(({ status }) => status !== 204)
    same(byFunctions, [{ url: `${world.url}/functions/v1/own-cors`, method: 'OPTIONS', status: 200 }])
  })

  return { ...report, ...(await walk(steps)) }
}

const world = JSON.parse(await text(process.stdin))
const server = await serve()
const browser = await chromium.launch({ executablePath: world.chromium, args: QUIET })
try {
  const report = await visit(browser, `http://127.0.0.1:${server.address().port}/`, world)
  console.log(JSON.stringify(report))
} finally {
  await browser.close()
  server.close()
}
