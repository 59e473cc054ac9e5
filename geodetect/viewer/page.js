// What is shown, what is selected, and how people ask for it.

const WORDS = ["", "right", "wrong", "missed"] // by kind
const chosen = {score: 0, classes: new Set(classes.keys()), kinds: new Set([UNJUDGED, RIGHT, WRONG, LABEL])}
let selected = -1
let order = null // of the boxes shown, best score first; null when they have changed

// ---- Choosing and counting

// Whether a detection has the score that is asked for; of a label, whether the one that found it has.
const isFound = i => boxes.score[i] !== null && boxes.score[i] >= chosen.score

const isShown = i => chosen.classes.has(boxes.class[i]) && chosen.kinds.has(boxes.kind[i]) &&
    (boxes.kind[i] === LABEL) !== isFound(i)

// Labels, detections and hits of the chosen classes, and the detections of each class. What is chosen of the outcomes
// is no matter here: precision and recall are those of all.
function counted() {
    const total = {labels: 0, detections: 0, right: 0, perClass: classes.map(() => 0)}
    for (let i = 0; i < count; i++) {
        const isLabel = boxes.kind[i] === LABEL, isChosen = chosen.classes.has(boxes.class[i])
        if (isLabel && isChosen) total.labels++
        if (isLabel || !isFound(i)) continue
        total.perClass[boxes.class[i]]++
        if (isChosen) total.detections++
        if (isChosen && boxes.kind[i] === RIGHT) total.right++
    }
    return total
}

function tellCounts() {
    const {labels, detections, right, perClass} = counted()
    const missed = labels - right, wrong = detections - right
    const several = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`
    const percent = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)}%` : "–"
    const lines = judged ? [
        `${several(labels, "label")}: ${number(right)} found, ${number(missed)} missed`,
        `${several(detections, "detection")}, ${number(wrong)} of them wrong`,
        `Precision ${percent(right, detections)}, recall ${percent(right, labels)}, ` +
            `F1 ${percent(2 * right, detections + labels)}`,
    ] : [several(detections, "detection")]
    byId("counts").replaceChildren(...lines.map(line => element("div", line)))
    const perKind = {[RIGHT]: right, [WRONG]: wrong, [LABEL]: missed}
    for (const [rows, counts] of [["outcomes", perKind], ["names", perClass]])
        for (const row of byId(rows).querySelectorAll("label"))
            row.querySelector("b").textContent = number(counts[row.control.value])
    byId("least").textContent = (Math.floor(chosen.score * 1000 + 1e-9) / 1000).toFixed(3) // never above the score
    byId("best").disabled = chosen.score === bestScore
}

function refresh() {
    order = null
    tellCounts()
    select(selected >= 0 && isShown(selected) ? selected : -1)
}

// ---- Moving

function moveTo(x, y, zoom = view.zoom) {
    Object.assign(view, {x, y, whole: false, zoom: clamp(zoom, 0.5 * wholeZoom(), Math.max(CLOSEST, wholeZoom()))})
    redrawMoved()
}

function showWhole() {
    moveTo(scene.width / 2, scene.height / 2, wholeZoom())
    view.whole = true // and stays so when the window changes its size
}

// The middle of the screen stays on the scene.
const pan = (left, top) => moveTo(
    clamp(view.x + left / view.zoom, 0, scene.width), clamp(view.y + top / view.zoom / ratio, 0, scene.height))

// What lies at this point of the screen stays there.
function zoomAt(times, left = across() / 2, top = down() / 2) {
    const [x, y] = toScene(left, top), before = view.zoom
    moveTo(view.x, view.y, before * times)
    moveTo(x - (x - view.x) * before / view.zoom, y - (y - view.y) * before / view.zoom)
}

// ---- Selecting

function element(name, text, ...before) {
    const made = document.createElement(name)
    made.append(...before, text)
    return made
}

function swatch(colour) {
    const made = element("i", "")
    made.style.background = colour
    return made
}

function inOrder() {
    const rank = i => boxes.kind[i] === LABEL ? -Infinity : boxes.score[i]
    order ??= [...boxes.kind.keys()].filter(isShown).sort((i, j) => rank(j) - rank(i) || i - j)
    return order
}

function told(i) {
    const kind = boxes.kind[i]
    const score = kind === LABEL ? "label" : `score ${boxes.score[i].toFixed(3)}`
    return [score, WORDS[kind], sizeOf(i)].filter(Boolean).join(", ")
}

function select(i) {
    selected = i
    redraw()
    byId("told").replaceChildren()
    byId("where").textContent = ""
    if (i < 0) return
    const {name, colour} = classes[boxes.class[i]], {x, y} = boundsOf(i)
    byId("told").append(
        element("div", name, swatch(colour)),
        element("div", told(i)),
        element("div", `${number(inOrder().indexOf(i) + 1)} of ${number(inOrder().length)} shown`),
    )
    byId("where").textContent = placeLines(x, y).join("\n")
}

// The next box in the order of scores, in the middle of the map and as large as is needed to judge it.
function step(by) {
    const all = inOrder(), at = all.indexOf(selected)
    if (!all.length) return
    const i = all.at(at < 0 ? Math.min(by, 0) : (at + by) % all.length)
    const {x, y, width, height} = boundsOf(i)
    const size = Math.max(width, height * ratio), room = Math.min(across(), down())
    const fits = size * view.zoom > 0.08 * room && size * view.zoom < 0.6 * room
    moveTo(x, y, fits ? view.zoom : 0.15 * room / size)
    select(i)
}

// The boxes at this point of the screen, the smallest first.
function boxesAt(left, top) {
    const [x, y] = toScene(left, top), found = []
    for (let i = 0; i < count; i++) {
        // Marks are larger than their boxes.
        const wide = Math.max(0, SMALL / view.zoom - bounds[4 * i + 2] + bounds[4 * i])
        const high = Math.max(0, SMALL / view.zoom / ratio - bounds[4 * i + 3] + bounds[4 * i + 1])
        if (x < bounds[4 * i] - wide || x > bounds[4 * i + 2] + wide) continue
        if (y < bounds[4 * i + 1] - high || y > bounds[4 * i + 3] + high) continue
        if (isShown(i)) found.push(i)
    }
    const area = i => boundsOf(i).width * boundsOf(i).height
    return found.sort((i, j) => area(i) - area(j))
}

// ---- Pointers and keys

const pointers = new Map() // where each finger is that touches the map
let dragged = false

function pointOf(event) {
    const {left, top} = canvas.getBoundingClientRect()
    return [event.clientX - left, event.clientY - top]
}

function hover(left, top) {
    const [i] = boxesAt(left, top), tip = byId("tip")
    byId("pointer").textContent = placeLines(...toScene(left, top)).join("\n")
    canvas.classList.toggle("on-box", i !== undefined)
    tip.hidden = i === undefined || i === selected
    if (tip.hidden) return
    tip.textContent = `${classes[boxes.class[i]].name}: ${told(i)}`
    tip.style.left = `${clamp(left + 14, 0, across() - tip.offsetWidth)}px`
    tip.style.top = `${clamp(top + 18, 0, down() - tip.offsetHeight)}px`
}

canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId)
    if (!pointers.size) dragged = false
    pointers.set(event.pointerId, pointOf(event))
})

canvas.addEventListener("pointermove", event => {
    const now = pointOf(event), before = pointers.get(event.pointerId)
    if (!before) return hover(...now)
    if (!dragged && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4) return // a finger is never quite still
    dragged = true
    canvas.classList.add("moving")
    byId("tip").hidden = true
    pointers.set(event.pointerId, now)
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1]
    if (!other) return pan(before[0] - now[0], before[1] - now[1])
    const apart = point => Math.hypot(point[0] - other[0], point[1] - other[1])
    pan((before[0] - now[0]) / 2, (before[1] - now[1]) / 2)
    zoomAt(apart(now) / Math.max(apart(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2)
})

for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => {
    pointers.delete(event.pointerId)
    canvas.classList.remove("moving")
    if (dragged || name === "pointercancel") return
    const point = pointOf(event), found = boxesAt(...point)
    byId("pointer").textContent = placeLines(...toScene(...point)).join("\n")
    byId("tip").hidden = true
    select(found.length ? found[(found.indexOf(selected) + 1) % found.length] : -1)
})

canvas.addEventListener("pointerleave", event => {
    byId("tip").hidden = true
    if (event.pointerType === "mouse") byId("pointer").textContent = "" // a finger has just left
})
canvas.addEventListener("dblclick", event => zoomAt(2, ...pointOf(event)))
canvas.addEventListener("wheel", event => {
    event.preventDefault()
    const turned = clamp(event.deltaY * (event.deltaMode ? 30 : 1), -300, 300) // in lines or px
    zoomAt(Math.exp(-turned / 400), ...pointOf(event))
}, {passive: false})

const KEYS = {
    n: () => step(1),
    p: () => step(-1),
    "+": () => zoomAt(1.5),
    "=": () => zoomAt(1.5), // the same key without Shift
    "-": () => zoomAt(1 / 1.5),
    0: showWhole,
    ArrowLeft: () => pan(-80, 0),
    ArrowRight: () => pan(80, 0),
    ArrowUp: () => pan(0, -80),
    ArrowDown: () => pan(0, 80),
    Escape: () => select(-1),
    "?": () => byId("help").showModal(),
}

document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || event.target.type === "search") return
    // Beside the map arrows move a slider, or what is scrolled.
    if (event.key.startsWith("Arrow") && ![canvas, document.body].includes(event.target)) return
    if (!KEYS[event.key]) return
    event.preventDefault()
    KEYS[event.key]()
})
for (const button of document.querySelectorAll("[data-key]"))
    button.addEventListener("click", () => KEYS[button.dataset.key]())

// ---- The panel

const setChosen = (name, value, on) => chosen[name][on ? "add" : "delete"](value)

function fillScores() {
    const slider = byId("score")
    let [min, max] = [0, 1]
    for (const score of boxes.score) if (score !== null) [min, max] = [Math.min(min, score), Math.max(max, score)]
    Object.assign(slider, {min, max, step: (max - min) / 100})
    const choose = score => {
        chosen.score = score
        refresh()
    }
    const chooseBest = () => {
        slider.value = bestScore ?? min
        choose(bestScore ?? min) // a slider has no steps between
    }
    slider.addEventListener("input", () => choose(+slider.value))
    byId("best").hidden = bestScore === null
    byId("best").addEventListener("click", chooseBest)
    chooseBest()
}

function fillClasses() {
    byId("classes").hidden = !classes.length
    byId("find").hidden = classes.length < 2
    byId("filter").hidden = classes.length <= 12
    const rows = classes.map(({name, colour}, value) => {
        const input = Object.assign(document.createElement("input"), {type: "checkbox", value, checked: true})
        const row = element("label", "", input, swatch(colour), element("span", name), element("b", ""))
        input.addEventListener("change", () => {
            setChosen("classes", value, input.checked)
            refresh()
        })
        return row
    })
    byId("names").append(...rows)
    for (const [id, on] of [["all", true], ["none", false]]) byId(id).addEventListener("click", () => {
        for (const row of rows.filter(row => !row.hidden)) {
            row.control.checked = on
            setChosen("classes", +row.control.value, on)
        }
        refresh()
    })
    byId("filter").addEventListener("input", event => {
        const part = event.target.value.toLowerCase()
        rows.forEach((row, k) => { row.hidden = !classes[k].name.toLowerCase().includes(part) })
    })
}

function fillOutcomes() {
    byId("outcomes").hidden = !judged
    byId("outcomes").addEventListener("change", ({target}) => {
        setChosen("kinds", +target.value, target.checked)
        refresh()
    })
}

function tellScene() {
    const {name, width, height, sides_m: sides, crs, north} = scene
    const [down, across] = scene.picture, coarser = Math.sqrt(width * height / (across * down))
    const size = sides ? ` of ${[...new Set(sides.map(side => +side.toPrecision(3)))].join(" × ")} m` : ""
    const shown = sides ? `at ${(coarser * Math.sqrt(sides[0] * sides[1])).toPrecision(2)} m`
        : `${coarser.toFixed(1)} times coarser`
    byId("about").textContent = `${number(width)} × ${number(height)} pixels${size}` +
        `${coarser > 1.05 ? `, shown ${shown}` : ""}; ${crs ?? "no CRS"}`
    canvas.setAttribute("aria-label", `Map of ${name}`)
    byId("north").toggleAttribute("hidden", !north)
    if (north) byId("north").firstElementChild.style.rotate = `${Math.atan2(north[0], -north[1] * ratio)}rad`
    byId("light").addEventListener("input", event => {
        light = +event.target.value
        redraw()
    })
}

tellScene()
fillOutcomes()
fillClasses()
fillScores()
showWhole()
new ResizeObserver(() => view.whole ? showWhole() : redraw()).observe(canvas)
picture.decode().then(redraw)
