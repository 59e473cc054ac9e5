// The map: the scene, the boxes over it, the scale.

const MANY = 2000 // boxes in view that take too long to be drawn in every frame
const SMALL = 6 // CSS px; a smaller box is drawn as a mark of this size

const last = {canvas: document.createElement("canvas"), view: null, many: false} // what was drawn, to be moved
const copy = last.canvas.getContext("2d")
let frame = 0 // that is asked for
let rest = 0 // timer
let light = 0 // doublings of the picture's brightness

function redraw() {
    clearTimeout(rest)
    cancelAnimationFrame(frame)
    frame = requestAnimationFrame(draw)
}

// After the view has moved: where many boxes are in view the last drawing moves with it, until it rests.
function redrawMoved() {
    if (!last.many) return redraw()
    frame ||= requestAnimationFrame(drawMoved)
    clearTimeout(rest)
    rest = setTimeout(redraw, 100)
}

function draw() {
    frame = 0
    const pen = cleared(), groups = groupsInView()
    drawPicture(pen)
    for (const members of groups) drawBoxes(pen, members)
    if (selected >= 0) drawSelected(pen)
    drawScale()
    last.many = groups.reduce((sum, members) => sum + members.length, 0) > MANY
    if (!last.many) return
    last.view = {...view}
    copy.globalCompositeOperation = "copy"
    copy.drawImage(canvas, 0, 0)
}

function drawMoved() {
    frame = 0
    const times = view.zoom / last.view.zoom, [left, top] = toScreen(last.view.x, last.view.y)
    const width = across() * times, height = down() * times
    cleared().drawImage(last.canvas, left - width / 2, top - height / 2, width, height)
    drawScale()
}

// A pen for the empty canvas, in CSS px.
function cleared() {
    const pen = canvas.getContext("2d"), sharp = devicePixelRatio
    const [width, height] = [across(), down()].map(side => Math.round(side * sharp))
    if (canvas.width !== width || canvas.height !== height)
        for (const each of [canvas, last.canvas]) Object.assign(each, {width, height})
    pen.setTransform(sharp, 0, 0, sharp, 0, 0)
    pen.clearRect(0, 0, across(), down())
    return pen
}

function drawPicture(pen) {
    const [left, top] = toScreen(0, 0), [right, bottom] = toScreen(scene.width, scene.height)
    pen.imageSmoothingEnabled = (right - left) / scene.picture[1] < 4 // closer, pixels look like pixels
    if (light) pen.filter = `brightness(${2 ** light})`
    pen.drawImage(picture, left, top, right - left, bottom - top)
    pen.filter = "none"
}

// The boxes in view by kind and class: wrong ones below right ones, missed labels on top.
function groupsInView() {
    const [x1, y1] = toScene(0, 0), [x2, y2] = toScene(across(), down())
    const groups = new Map()
    for (let i = 0; i < count; i++) {
        if (bounds[4 * i] > x2 || bounds[4 * i + 1] > y2 || bounds[4 * i + 2] < x1 || bounds[4 * i + 3] < y1) continue
        if (!isShown(i)) continue
        const key = [UNJUDGED, WRONG, RIGHT, LABEL].indexOf(boxes.kind[i]) * classes.length + boxes.class[i]
        if (!groups.has(key)) groups.set(key, [])
        groups.get(key).push(i)
    }
    return [...groups].sort(([one], [other]) => one - other).map(([, members]) => members)
}

// Boxes of one class and kind. A dark edge sets their lines off from every ground.
function drawBoxes(pen, members) {
    const colour = classes[boxes.class[members[0]]].colour, kind = boxes.kind[members[0]]
    const path = new Path2D()
    for (const i of members) trace(path, i)
    if (kind === WRONG) {
        pen.fillStyle = colour + "8c" // an opacity of 0.55
        pen.fill(path)
    }
    const lines = [["#000b", 3.8, []], kind === LABEL ? ["#fff", 2, [6, 4]] : [colour, 2, []]]
    for (const [style, width, dashes] of lines) {
        pen.strokeStyle = style
        pen.lineWidth = width
        pen.setLineDash(dashes)
        pen.stroke(path)
    }
    pen.setLineDash([])
}

// The outline of a box on the screen. One too small to see is a mark, of a missed label a diamond.
function trace(path, i) {
    const [left, top] = toScreen(bounds[4 * i], bounds[4 * i + 1])
    const [right, bottom] = toScreen(bounds[4 * i + 2], bounds[4 * i + 3])
    const outline = boxes.outline[i]
    if (Math.max(right - left, bottom - top) < SMALL) {
        const x = (left + right) / 2, y = (top + bottom) / 2, half = SMALL / 2
        if (boxes.kind[i] === LABEL) polygon(path, [[x, y - half], [x + half, y], [x, y + half], [x - half, y]])
        else path.rect(x - half, y - half, SMALL, SMALL)
    } else if (outline.length === 4) path.rect(left, top, right - left, bottom - top)
    else {
        const corners = []
        for (let k = 0; k < outline.length; k += 2) corners.push(toScreen(outline[k], outline[k + 1]))
        polygon(path, corners)
    }
}

function polygon(path, corners) {
    path.moveTo(...corners[0])
    for (const corner of corners.slice(1)) path.lineTo(...corner)
    path.closePath()
}

function drawSelected(pen) {
    const {x1, y1, x2, y2} = boundsOf(selected)
    const [left, top] = toScreen(x1, y1), [right, bottom] = toScreen(x2, y2)
    const margin = 7 + Math.max(0, SMALL - Math.max(right - left, bottom - top)) / 2
    for (const [style, width] of [["#000", 6], ["#fff", 3]]) {
        pen.strokeStyle = style
        pen.lineWidth = width
        pen.strokeRect(left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin)
    }
}

// A bar of 1, 2 or 5 times a power of ten, as true as at the scene's centre.
function drawScale() {
    const unit = (scene.sides_m ? scene.sides_m[0] : 1) / view.zoom // of a CSS px
    const most = Math.min(140, across() / 4) * unit
    const power = 10 ** Math.floor(Math.log10(most))
    const length = power * [5, 2, 1].find(times => times * power <= most)
    const round = value => number(+value.toPrecision(1))
    byId("bar").style.width = `${length / unit}px`
    byId("length").textContent = !scene.sides_m ? `${round(length)} pixels`
        : length < 1000 ? `${round(length)} m` : `${round(length / 1000)} km`
}
