// How a tour goes: named steps, each of which passes or tells what went wrong.

export function itinerary() {
  const steps = new Map()
  const step = (name, take) => {
    if (steps.has(name)) throw new Error(`two steps are called "${name}"`)
    steps.set(name, take)
  }
  return { steps, step }
}

export async function walk(steps) {
  const report = {}
  for (const [name, take] of steps) {
    try {
      await take()
      report[name] = null
    } catch (error) {
      report[name] = String(error?.stack ?? error)
    }
  }
  return report
}

export function same(actual, expected) {
  const [was, wanted] = [actual, expected].map((value) => JSON.stringify(value))
  if (was !== wanted) throw new Error(`${was} is not ${wanted}`)
}

export function holds(condition, what) {
  if (!condition) throw new Error(what)
}

export async function eventually(probe, what, seconds = 10) {
  const deadline = performance.now() + seconds * 1000
  while (!(await probe())) {
    holds(performance.now() < deadline, `not within ${seconds} s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

// The next piece of a stream of text that ends in a blank line.
export function eventReader(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  return async () => {
    while (!text.includes('\n\n')) {
      const { done, value } = await reader.read()
      if (done) return null
      text += value
    }
    const [event, ...rest] = text.split('\n\n')
    text = rest.join('\n\n')
    return event
  }
}
