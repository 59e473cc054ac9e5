"use strict"

// What the page holds, and where it lies: on the screen, on the map and on the ground.
//
// A place is x and y in scene pixels: x right, y down, (0, 0) the outer corner of the first pixel. On the screen a pixel
// is as wide and as high as on the ground, but for a factor, so that a metre is as long in every direction.

const {scene, classes, boxes, judged, best_score: bestScore} = JSON.parse(document.getElementById("content").textContent)
const [UNJUDGED, RIGHT, WRONG, LABEL] = [0, 1, 2, 3] // kinds of boxes, as in content.py
const count = boxes.kind.length
const byId = id => document.getElementById(id)
const canvas = byId("map"), picture = byId("picture")
const number = value => value.toLocaleString("en")
const clamp = (value, low, high) => Math.min(Math.max(value, low), high)

const CLOSEST = 24 // CSS px of a scene pixel: closer there is nothing more to see
const METRES_PER_DEGREE = 111320 // of latitude

const ratio = scene.sides_m ? scene.sides_m[1] / scene.sides_m[0] : 1 // height over width of a pixel
const view = {x: scene.width / 2, y: scene.height / 2, zoom: 1, whole: true} // zoom: CSS px of a pixel's width

const across = () => canvas.clientWidth, down = () => canvas.clientHeight
const toScreen = (x, y) => [across() / 2 + (x - view.x) * view.zoom, down() / 2 + (y - view.y) * view.zoom * ratio]
const toScene = (left, top) => [
    view.x + (left - across() / 2) / view.zoom,
    view.y + (top - down() / 2) / view.zoom / ratio,
]
const wholeZoom = () => 0.96 * Math.min(across() / scene.width, down() / scene.height / ratio)

// x1, y1, x2, y2 of each box, one after the other.
const bounds = new Float64Array(4 * count)
for (let i = 0; i < count; i++) {
    const [x1, y1, x2, y2] = [0, 1, 2, 3].map(k => 4 * i + k)
    bounds[x1] = bounds[y1] = Infinity
    bounds[x2] = bounds[y2] = -Infinity
    boxes.outline[i].forEach((value, k) => {
        const [low, high] = k % 2 ? [y1, y2] : [x1, x2]
        bounds[low] = Math.min(bounds[low], value)
        bounds[high] = Math.max(bounds[high], value)
    })
}

function boundsOf(i) {
    const [x1, y1, x2, y2] = bounds.subarray(4 * i, 4 * i + 4)
    return {x1, y1, x2, y2, x: (x1 + x2) / 2, y: (y1 + y2) / 2, width: x2 - x1, height: y2 - y1}
}

// Longitude and latitude in degrees, and the size of a pixel in metres, from the nearest four places where the page
// knows them; null where it does not.
function ground(x, y) {
    if (!scene.places) return null
    const cells = Math.sqrt(scene.places.length) - 1
    const u = x / scene.width * cells, v = y / scene.height * cells
    const column = clamp(Math.floor(u), 0, cells - 1), row = clamp(Math.floor(v), 0, cells - 1)
    const s = u - column, t = v - row, first = row * (cells + 1) + column
    const corners = [first, first + 1, first + cells + 1, first + cells + 2].map(k => scene.places[k])
    if (corners.flat().includes(null)) return null
    const weights = [(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t]
    const [a, b, c, width, height] = corners[0].map(
        (_, k) => weights.reduce((sum, weight, n) => sum + weight * corners[n][k], 0))
    const degrees = 180 / Math.PI
    return {lon: Math.atan2(b, a) * degrees, lat: Math.atan2(c, Math.hypot(a, b)) * degrees, width, height}
}

// Decimals that tell places apart that lie a pixel of this size from each other.
const decimals = size => clamp(-Math.floor(Math.log10(size)), 0, 9)

// A place in the map's own coordinates and in degrees, as far as they are known.
function placeLines(x, y) {
    if (!scene.transform) return [`pixel ${x.toFixed(1)}, ${y.toFixed(1)}`]
    const [a, b, c, d, e, f] = scene.transform, digits = decimals(Math.hypot(a, d))
    const form = {minimumFractionDigits: digits, maximumFractionDigits: digits}
    const onMap = [a * x + b * y + c, d * x + e * y + f].map(value => value.toLocaleString("en", form))
    const lines = [`${scene.crs ?? "no CRS"}: ${onMap.join(" / ")}`]
    const here = ground(x, y)
    if (here) {
        const half = (value, plus, minus) =>
            `${Math.abs(value).toFixed(decimals(scene.sides_m[0] / METRES_PER_DEGREE))}° ${value < 0 ? minus : plus}`
        lines.push(`${half(here.lat, "N", "S")}, ${half(here.lon, "E", "W")}`)
    }
    return lines
}

// Width and height of a box; of a rectangle that is turned its sides.
function sizeOf(i) {
    const {x, y, width, height} = boundsOf(i), outline = boxes.outline[i], here = ground(x, y)
    const [across, down] = here ? [here.width, here.height] : [1, 1]
    const side = k => Math.hypot((outline[k + 2] - outline[k]) * across, (outline[k + 3] - outline[k + 1]) * down)
    const sides = outline.length === 8 ? [side(0), side(2)] : [width * across, height * down]
    if (!here) return `${sides.map(value => value.toFixed(0)).join(" × ")} pixels`
    const [factor, unit] = Math.max(...sides) < 1000 ? [1, "m"] : [1000, "km"]
    const digits = value => value < 1 ? 2 : value < 100 ? 1 : 0
    return `${sides.map(value => (value / factor).toFixed(digits(value / factor))).join(" × ")} ${unit}`
}
