"""Texts to measure a model's loss on: of many kinds, short and long, and of our own writing."""

from __future__ import annotations

_STATEMENTS = (
    "The ferry leaves at nine in summer and at ten in winter.",
    "She repaired the clock with a spring from an old radio.",
    "Bread keeps longer in linen than in plastic.",
    "The committee postponed its vote until the figures were checked.",
    "Heavy rain closed the mountain road for three days.",
    "A violin made of maple sounds brighter than one of poplar.",
    "The new tram line connects the harbour with the university.",
    "He learned to swim at sixty and crossed the lake at sixty-two.",
    "The soup needs salt, a little lemon and another hour.",
    "Our warehouse ships orders on the day they arrive.",
    "The patient's temperature fell after the second dose.",
    "Interest rates rose for the fourth time this year.",
    "The telescope photographed a galaxy nobody had catalogued.",
    "Wolves returned to the valley after a century.",
    "The goalkeeper saved two penalties in extra time.",
    "Copper conducts electricity better than iron does.",
    "Her grandmother's letters were written in a dialect nobody speaks now.",
    "The contract ends on the last day of March unless it is renewed.",
    "The bridge was closed because a bolt had rusted through.",
    "Children under six travel free on all regional trains.",
)

_QUESTIONS = (
    "How do I reset my password?",
    "What is the capital of Mongolia?",
    "Which plants grow well in the shade?",
    "Why does my sourdough not rise?",
    "Can I return shoes that I have worn once?",
    "When was the printing press invented?",
    "How much does it cost to send a parcel to Norway?",
    "Is it safe to eat rice that has been reheated?",
    "Who is responsible for repairs in a rented flat?",
    "What should I see in Lisbon in two days?",
)

_SHORT = (
    "hello",
    "invoice 2024-118",
    "red shoes size 42",
    "error: connection refused",
    "thank you very much",
    "cheap flights",
    "vegetarian lasagne",
    "42",
    "Johann Sebastian Bach",
    "order cancelled",
)

_CODE = (
    "def area(radius): return 3.14159 * radius ** 2",
    "SELECT name, price FROM products WHERE price < 20 ORDER BY price;",
    "for (const item of basket) total += item.price * item.count;",
    "git commit -m 'Correct the rounding of prices'",
    '{"user": "anna", "roles": ["editor", "reader"], "active": true}',
    "TypeError: cannot add a number and a string in line 17",
)

_OTHER_LANGUAGES = (
    "Der Zug nach Hamburg hat heute zwanzig Minuten Verspätung.",
    "Le marché ouvre à sept heures, même les jours de pluie.",
    "El museo cierra los lunes y los días festivos.",
    "La biblioteca presta anche dischi e spartiti.",
    "O café fica na esquina, ao lado da farmácia.",
    "Поезд прибывает на третий путь в половине восьмого.",
    "今日は駅前の本屋が休みです。",
    "这家餐馆的面条很好吃。",
)

_LONG = (
    "The museum's oldest clock was built for a monastery whose monks had to rise at two in the morning. It"
    " has no hands: a weight falls, a wheel turns, and a hammer strikes a bell as often as the hour asks.",
    "To plant a hedge, dig a trench two spades wide, loosen the ground, and set the young plants at a"
    " distance of a forearm. Water them well in the first summer and cut them back by a third in autumn.",
    "The company reported higher sales in every region but one. Costs grew faster than income, however,"
    " since freight became dearer and two factories stood still for a month. The board expects a better"
    " second half and keeps its forecast for the year.",
    "A hash table stores each value under a number computed from its key. When two keys give the same"
    " number the table keeps both in a short list, or looks for the next free place. As long as the table"
    " is not too full, finding a value takes the same time however many there are.",
    "Tenants must tell the landlord of damage without delay. If water comes through the ceiling, close the"
    " main tap, take photographs and call the number on the notice in the hall. Repairs that the tenant"
    " orders without asking are paid for by the tenant, except in an emergency.",
    "We walked along the coast until the path ended at a fishing village. The only inn had two rooms, both"
    " taken, so the owner made beds for us in the boathouse. At night the tide lifted the boats, and"
    " their hulls knocked against the jetty until morning.",
    "Vaccines show the immune system a harmless part of a pathogen. Cells that recognise it multiply, and"
    " some of them stay for years. When the pathogen itself arrives, they answer within hours instead of"
    " days, often before the person notices anything.",
    "To descale the machine, fill the tank with water and two spoons of citric acid. Let half of it run"
    " through, wait for a quarter of an hour, and let the rest follow. Rinse twice with clear water"
    " before you make coffee again.",
    "The orchestra will play three works by composers of the nineteenth century, two of them rarely heard."
    " Tickets are sold at the box office and online; students pay half. Doors open at half past seven,"
    " and latecomers wait for the interval. " * 4,
    "Every night at three the backup copies what has changed since the last one, checks the copy against"
    " the original, and sends a message if they differ. Once a month somebody restores it to an empty"
    " machine, for a backup that was never restored is only a hope. " * 3,
)

TEXTS = (*_STATEMENTS, *_QUESTIONS, *_SHORT, *_CODE, *_OTHER_LANGUAGES, *_LONG)
