// What runs in the page: the tour of supabase-js, and what only a browser does.

import { eventually, holds, itinerary, same, walk } from './steps.mjs'
import { supabaseTour } from './supabase_tour.mjs'

function pageTour(world) {
  const { steps, step } = itinerary()
  const sockets = world.url.replace('http', 'ws') + '/functions/v1/socket'

  // The messages of a WebSocket that says `hello` when it is open, and says no more after the second.
  function conversation(...arguments_) {
    return new Promise((resolve, reject) => {
      const heard = []
      const socket = new WebSocket(...arguments_)
      socket.onopen = () => socket.send('hello 🎤')
      socket.onerror = () => reject(new Error('the WebSocket failed'))
      socket.onmessage = ({ data }) => {
        if (heard.push(data) === 2) socket.close(1000)
      }
      socket.onclose = ({ code }) => resolve({ first: JSON.parse(heard[0]), second: heard[1], code, socket })
    })
  }

  step("the page is of another origin than the server", async () => {
    holds(location.origin !== new URL(world.url).origin, location.origin)
  })

  step("a WebSocket carries its token in the query", async () => {
    const { first, second, code } = await conversation(`${sockets}?jwt=${world.user}&room=7`)
    same(first, { role: 'authenticated', query: { room: '7' } })
    same([second, code], ['HELLO 🎤', 1000])
  })

  step("a WebSocket carries its token as a subprotocol", async () => {
    const { first, socket } = await conversation(sockets, [`jwt-${world.user}`])
    same([first.role, socket.protocol], ['authenticated', `jwt-${world.user}`])
  })

  step("a WebSocket without a token is refused", async () => {
    const socket = new WebSocket(sockets)
    const code = await new Promise((resolve) => (socket.onclose = (event) => resolve(event.code)))
    same(code, 1006)
  })

  step("an EventSource hears events as they come", async () => {
    const run = `${world.url}/functions/v1/public-tokens?run=${crypto.randomUUID()}`
    const source = new EventSource(run)
    try {
      const heard = []
      source.onmessage = ({ data }) => heard.push(data)
      for (const words of [['one'], ['one', 'two'], ['one', 'two', 'three 🎤']]) {
        await eventually(() => heard.length === words.length, words.at(-1))
        same(heard, words)
        await fetch(run, { method: 'POST' })
      }
    } finally {
      source.close()
    }
  })

  step("a simple request needs no preflight and is readable", async () => {
    const response = await fetch(`${world.url}/functions/v1/public`)
    same([(await response.json()).headers.origin, response.ok], [location.origin, true])
  })

  step("a beacon arrives", async () => {
    holds(navigator.sendBeacon(`${world.url}/functions/v1/public-tokens?run=beacon`, ''), 'queued')
    const response = await fetch(`${world.url}/functions/v1/public-tokens?run=beacon`)
    const text = response.body.pipeThrough(new TextDecoderStream()).getReader()
    let heard = ''
    while (!heard.includes('two')) heard += (await text.read()).value // the beacon has opened the gate
    await text.cancel()
  })

  return steps
}

export const tour = (world) => walk([...supabaseTour(window.supabase, world), ...pageTour(world)])
