"use strict";
// The rules of pawprint/image.py, the graph, and the page. about.js, runtime.js and model.js hold the data.

// --- One axis of a picture: each new line is a weighted sum of old ones, [first, weights].

const clamp = (value, top) => Math.min(Math.max(value, 0), top);

// libjpeg's scaled decoding: of the eight frequencies of a block of 8 pixels the lowest `k` become k pixels.
function blockLines(size, k) {
    const cosine = (n, u, x) => Math.cos((2 * x + 1) * u * Math.PI / (2 * n)) * Math.sqrt((u ? 2 : 1) / n);
    const rows = Array.from({length: k}, (_, y) => Array.from({length: 8}, (_, x) => {
        let sum = 0;
        for (let u = 0; u < k; u++) sum += cosine(k, u, y) * cosine(8, u, x);
        return sum * Math.sqrt(k / 8);
    }));
    return Array.from({length: Math.ceil(size * k / 8)}, (_, line) => {
        const first = 8 * Math.floor(line / k), weights = [];
        rows[line % k].forEach((weight, x) => {  // the last line stands for those that are missing
            const place = Math.min(first + x, size - 1) - first;
            weights[place] = (weights[place] || 0) + weight;
        });
        return [first, weights];
    });
}

// OpenCV's INTER_AREA: the mean of what a new pixel covers.
function areaLines(size, out) {
    const step = size / out;
    return Array.from({length: out}, (_, line) => {
        const from = line * step, to = Math.min(from + step, size), first = Math.floor(from), weights = [];
        for (let x = first; x < to - 1e-9; x++) weights.push((Math.min(x + 1, to) - Math.max(x, from)) / (to - from));
        return [first, weights];
    });
}

// OpenCV's INTER_LINEAR.
function linearLines(size, out) {
    return Array.from({length: out}, (_, line) => {
        const place = clamp((line + 0.5) * size / out - 0.5, size - 1), first = Math.min(Math.floor(place), size - 1);
        return first === size - 1 ? [first, [1]] : [first, [1 - (place - first), place - first]];
    });
}

// (1, 2, 1) / 4, mirrored at the edge without repeating it.
function blurLines(size) {
    return Array.from({length: size}, (_, line) =>
        line === 0 ? [0, [0.5, 0.5]] : line === size - 1 ? [size - 2, [0.5, 0.5]] : [line - 1, [0.25, 0.5, 0.25]]);
}

// A picture is {width, height, data}: RGB, row by row. Lines of x, then of y; null leaves an axis as it is.
function reshape({width, height, data}, across, down) {
    if (across) {
        const out = new Float32Array(across.length * height * 3);
        for (let y = 0, to = 0; y < height; y++) {
            for (const [first, weights] of across) {
                let from = (y * width + first) * 3, r = 0, g = 0, b = 0;
                for (const weight of weights) {
                    r += weight * data[from++];
                    g += weight * data[from++];
                    b += weight * data[from++];
                }
                out[to++] = r;
                out[to++] = g;
                out[to++] = b;
            }
        }
        data = out;
        width = across.length;
    }
    if (down) {
        const row = width * 3, out = new Float32Array(row * down.length);
        down.forEach(([first, weights], y) => weights.forEach((weight, place) => {
            const from = (first + place) * row;
            for (let x = 0; x < row; x++) out[y * row + x] += weight * data[from + x];
        }));
        data = out;
        height = down.length;
    }
    return {width, height, data: Uint8ClampedArray.from(data)};  // which rounds
}

// --- image.resize

function scale(picture, width, height) {
    const halved = [picture.width >= 2 * width, picture.height >= 2 * height];
    if (halved[0] || halved[1]) {
        picture = reshape(
            picture,
            halved[0] ? areaLines(picture.width, width) : null,
            halved[1] ? areaLines(picture.height, height) : null,
        );
    }
    const across = 3 * picture.width > 4 * width, down = 3 * picture.height > 4 * height;
    if (across) picture = reshape(picture, blurLines(picture.width), null);
    if (down) picture = reshape(picture, null, blurLines(picture.height));
    if (picture.width === width && picture.height === height) return picture;
    return reshape(picture, linearLines(picture.width, width), linearLines(picture.height, height));
}

// Half goes to the even neighbour, as Python's round does.
const round = value => Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);

function resize(picture, size, fit) {
    const {width, height} = picture;
    if (fit === "crop") {
        const side = Math.min(width, height), out = new Uint8ClampedArray(side * side * 3);
        const top = Math.floor((height - side) / 2), left = Math.floor((width - side) / 2);
        for (let y = 0; y < side; y++) {
            const from = ((top + y) * width + left) * 3;
            out.set(picture.data.subarray(from, from + side * 3), y * side * 3);
        }
        return scale({width: side, height: side, data: out}, size, size);
    }
    if (fit === "letterbox") {
        const ratio = size / Math.max(width, height);
        const inner = scale(picture, Math.max(1, round(width * ratio)), Math.max(1, round(height * ratio)));
        const top = Math.floor((size - inner.height) / 2), left = Math.floor((size - inner.width) / 2);
        const out = new Uint8ClampedArray(size * size * 3).fill(127);
        for (let y = 0; y < inner.height; y++) {
            const row = inner.data.subarray(y * inner.width * 3, (y + 1) * inner.width * 3);
            out.set(row, ((top + y) * size + left) * 3);
        }
        return {width: size, height: size, data: out};
    }
    return scale(picture, size, size);
}

// --- image.decode, image.encode

function canvasOf(width, height) {
    const canvas = new OffscreenCanvas(width, height);
    return [canvas, canvas.getContext("2d", {colorSpace: "srgb", willReadFrequently: true})];
}

// In strips: a canvas of a telephone's photograph would be too large for some browsers.
const STRIP = 256;

async function decode(blob, size) {
    const head = new Uint8Array(await blob.slice(0, 3).arrayBuffer());
    const jpeg = head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff;
    const bitmap = await createImageBitmap(blob, {imageOrientation: "from-image"});
    const {width, height} = bitmap;
    let k = 8;
    if (jpeg && Math.min(width, height) >= 2 * size) {
        k = 1;  // the fewest eighths that leave `size` pixels a side
        while (k < 4 && Math.min(Math.ceil(width * k / 8), Math.ceil(height * k / 8)) < size) k++;
    }
    const across = k < 8 ? blockLines(width, k) : null;
    const wide = Math.ceil(width * k / 8), high = Math.ceil(height * k / 8);
    const data = new Uint8ClampedArray(wide * high * 3);
    const [, context] = canvasOf(width, Math.min(STRIP, height));
    for (let top = 0; top < height; top += STRIP) {
        const rows = Math.min(STRIP, height - top);
        context.fillStyle = "#fff";
        context.fillRect(0, 0, width, rows);
        context.drawImage(bitmap, 0, -top);
        let strip = {width, height: rows, data: withoutAlpha(context.getImageData(0, 0, width, rows).data)};
        if (k < 8) strip = reshape(strip, across, blockLines(rows, k));
        data.set(strip.data, top * k / 8 * wide * 3);
    }
    bitmap.close();
    return {width: wide, height: high, data};
}

function withoutAlpha(rgba) {
    const data = new Uint8ClampedArray(rgba.length / 4 * 3);
    for (let from = 0, to = 0; from < rgba.length; from += 4) {
        data[to++] = rgba[from];
        data[to++] = rgba[from + 1];
        data[to++] = rgba[from + 2];
    }
    return data;
}

// A prepared photograph is a JPEG; what that changes the model has learned with.
async function recode(picture, quality) {
    const {width, height} = picture, [canvas, context] = canvasOf(width, height);
    const pixels = context.createImageData(width, height);
    for (let from = 0, to = 0; to < pixels.data.length;) {
        pixels.data[to++] = picture.data[from++];
        pixels.data[to++] = picture.data[from++];
        pixels.data[to++] = picture.data[from++];
        pixels.data[to++] = 255;
    }
    context.putImageData(pixels, 0, 0);
    const blob = await canvas.convertToBlob({type: "image/jpeg", quality: quality / 100});
    context.drawImage(await createImageBitmap(blob), 0, 0);
    return withoutAlpha(context.getImageData(0, 0, width, height).data);
}

// --- The model

async function open() {
    const bytes = async (text, type) => {
        const response = await fetch(`data:${type};base64,${text}`);
        return response.blob();
    };
    const library = URL.createObjectURL(await bytes(runtime[0], "text/javascript"));
    const ort = await import(library);
    ort.env.wasm.numThreads = 1;  // more need headers that a folder cannot have
    ort.env.wasm.wasmBinary = await (await bytes(runtime[1], "application/wasm")).arrayBuffer();
    const graph = new Uint8Array(await (await bytes(model, "application/octet-stream")).arrayBuffer());
    globalThis.runtime = globalThis.model = null;  // they are held by the session now
    const session = await ort.InferenceSession.create(graph, {executionProviders: ["wasm"]});
    return async blob => {
        const data = await recode(resize(await decode(blob, about.size), about.size, about.fit), about.quality);
        const images = new ort.Tensor("uint8", new Uint8Array(data.buffer), [1, about.size, about.size, 3]);
        const outputs = await session.run({images}, ["probabilities", "typicality"]);
        return decide([...outputs.probabilities.data], outputs.typicality.data[0]);
    };
}

function decide(probabilities, typicality) {
    const best = Math.max(...probabilities), nearest = about.classes[probabilities.indexOf(best)];
    const refusal = typicality < about.ood_threshold ? "unlike" : best < about.min_confidence ? "unsure" : "";
    return {label: refusal ? "unknown" : nearest, nearest, refusal, probabilities, typicality};
}

async function compare(classify) {
    const result = {pictures: 0, different: [], difference: 0};
    for (const [name, expected] of Object.entries(about.expected)) {
        const blob = await (await fetch(`data:application/octet-stream;base64,${pictures[name]}`)).blob();
        result.pictures += 1;
        let found;
        try {
            found = await classify(blob);
        } catch (error) {
            console.warn(name, error);
            result.different.push(name);
            continue;
        }
        if (found.label !== expected.label) result.different.push(name);
        found.probabilities.forEach((value, place) => {
            result.difference = Math.max(result.difference, Math.abs(value - expected.probabilities[place]));
        });
    }
    return result;
}

// --- The page

const element = id => document.getElementById(id);
const say = text => { element("status").textContent = text; };
const percent = value => `${(100 * value).toFixed(1)} %`;

function add(tag, text, kind, parent) {
    const made = document.createElement(tag);
    made.className = kind;
    made.textContent = text;
    parent.append(made);
    return made;
}

async function answer(classify, file) {
    const item = add("li", "", "", element("answers"));
    const shown = add("img", "", "", item), words = add("div", "", "", item);
    shown.alt = "";
    shown.src = URL.createObjectURL(file);
    add("p", file.name, "name", words);
    try {
        const found = await classify(file);
        const why = {unlike: "it is unlike the training photographs", unsure: "the model is unsure"}[found.refusal];
        add("p", why ? `unknown: ${why}; ${found.nearest} is the nearest class` : found.label, "label", words);
        const order = found.probabilities.map((value, place) => [value, about.classes[place]]).sort((a, b) => b[0] - a[0]);
        add("p", order.slice(0, 5).map(([value, name]) => `${name} ${percent(value)}`).join(", "), "shares", words);
        return found;
    } catch (error) {
        shown.remove();
        add("p", "No prediction", "label", words);
        add("p", "This browser cannot read the file as a photograph.", "shares", words);
        console.warn(error);
        return null;
    }
}

async function check(classify) {
    say("The pictures that came with the page are being classified.");
    const result = await compare(classify);
    say(`${result.pictures} pictures: ${result.different.length} with another label, probabilities differ by at most ` +
        `${result.difference.toPrecision(2)}.`);
    console.info(`pawprint-check ${JSON.stringify(result)}`);
}

async function main() {
    element("classes").textContent = `Distinguishes ${about.classes.join(", ")}.`;
    element("model").textContent = `${about.candidate}, trained on ${about.dataset}; model ${about.model}`;
    let classify;
    try {
        classify = await open();
    } catch (error) {
        say(`The model cannot be loaded in this browser: ${error.message}`);
        console.error(error);
        return;
    }
    say("Choose photographs.");
    const files = element("files"), button = element("check");
    files.addEventListener("change", async () => {
        const chosen = [...files.files];
        files.disabled = true;
        for (const [place, file] of chosen.entries()) {
            say(`Photograph ${place + 1} of ${chosen.length}.`);
            await answer(classify, file);
        }
        say("All photographs are classified.");
        files.disabled = false;
        files.value = "";
    });
    button.addEventListener("click", () => check(classify));
    files.disabled = button.disabled = false;
    if (location.hash === "#check") await check(classify);
}

main();
