// supabase-js in Node: reads the world from its input, prints the report.

import { text } from 'node:stream/consumers'

import * as library from '@supabase/supabase-js'

import { walk } from './steps.mjs'
import { supabaseTour } from './supabase_tour.mjs'

const world = JSON.parse(await text(process.stdin))
console.log(JSON.stringify(await walk(supabaseTour(library, world))))
