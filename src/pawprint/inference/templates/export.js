"use strict";
// The rules of pawprint/image.py, the graph, and the page. about.js, runtime.js and model.js hold the data.

// --- One axis of a picture: each new line is a weighted sum of old ones, [first, weights].

const clamp = (value, top) => Math.min(Math.max(value, 0), top);

// Of the cosine transform of n values.
const cosine = (n, u, x) => Math.cos((2 * x + 1) * u * Math.PI / (2 * n)) * Math.sqrt((u ? 2 : 1) / n);

// libjpeg's scaled decoding of a block of 8 pixels: k means, or where k does not divide 8 the k lowest frequencies.
function blockLines(size, k) {
    const rows = Array.from({length: k}, (_, y) => Array.from({length: 8}, (_, x) => {
        let sum = 0;
        if (8 % k === 0) return Math.floor(x * k / 8) === y ? k / 8 : 0;
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

// (1, 2, 1) / 4, mirrored at the edge without repeating it.
function blurLines(size) {
    return Array.from({length: size}, (_, line) =>
        line === 0 ? [0, [0.5, 0.5]] : line === size - 1 ? [size - 2, [0.5, 0.5]] : [line - 1, [0.25, 0.5, 0.25]]);
}

// A picture is {width, height, data}: RGB, row by row. Lines of x, then of y; null leaves an axis as it is.
function reshape({width, height, data}, across, down, halfUp = false, depth = 3) {
    if (across) {
        const out = new Float32Array(across.length * height * depth);
        for (let y = 0, to = 0; y < height; y++) {
            for (const [first, weights] of across) {
                const from = (y * width + first) * depth;
                for (let c = 0; c < depth; c++) {
                    let sum = 0;
                    for (let x = 0; x < weights.length; x++) sum += weights[x] * data[from + x * depth + c];
                    out[to++] = sum;
                }
            }
        }
        data = out;
        width = across.length;
    }
    if (down) {
        const row = width * depth, out = new Float32Array(row * down.length);
        down.forEach(([first, weights], y) => weights.forEach((weight, place) => {
            const from = (first + place) * row;
            for (let x = 0; x < row; x++) out[y * row + x] += weight * data[from + x];
        }));
        data = out;
        height = down.length;
    }
    if (halfUp) data = data.map(value => Math.floor(value + 0.5));
    return {width, height, data: Uint8ClampedArray.from(data)};  // which rounds, half to the even neighbour
}

// OpenCV's INTER_LINEAR in its integers.
function linear({width, height, data}, wide, high) {
    const lines = (size, out) => Array.from({length: out}, (_, line) => {
        const place = clamp(Math.fround((line + 0.5) * (size / out) - 0.5), size - 1), first = Math.floor(place);
        return [first, Math.min(first + 1, size - 1), round(2048 * (1 - place + first)), round(2048 * (place - first))];
    });
    const half = new Int32Array(wide * height * 3), out = new Uint8ClampedArray(wide * high * 3);
    lines(width, wide).forEach(([left, right, most, rest], x) => {
        for (let from = 0, to = 3 * x; to < half.length; from += 3 * width, to += 3 * wide) {
            for (let c = 0; c < 3; c++) half[to + c] = most * data[from + 3 * left + c] + rest * data[from + 3 * right + c] >> 4;
        }
    });
    lines(height, high).forEach(([above, below, most, rest], y) => {
        for (let x = 0, row = 3 * wide; x < row; x++) {
            out[y * row + x] = (most * half[above * row + x] >> 16) + (rest * half[below * row + x] >> 16) + 2 >> 2;
        }
    });
    return {width: wide, height: high, data: out};
}

// --- image.resize

function scale(picture, width, height) {
    const halved = [picture.width >= 2 * width, picture.height >= 2 * height];
    if (halved[0] || halved[1]) {
        picture = reshape(
            picture,
            halved[0] ? areaLines(picture.width, width) : null,
            halved[1] ? areaLines(picture.height, height) : null,
            picture.width === 2 * width && picture.height === 2 * height,
        );
    }
    const across = 3 * picture.width > 4 * width, down = 3 * picture.height > 4 * height;
    if (across) picture = reshape(picture, blurLines(picture.width), null, true);
    if (down) picture = reshape(picture, null, blurLines(picture.height), true);
    if (picture.width === width && picture.height === height) return picture;
    return linear(picture, width, height);
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

function colour(out, to, light, blue, red) {
    blue -= 128;
    red -= 128;
    out[to] = light + (91881 * red + 32768 >> 16);
    out[to + 1] = light + (-22554 * blue - 46802 * red + 32768 >> 16);
    out[to + 2] = light + (116130 * blue + 32768 >> 16);
}

// A JPEG with `k` of 8 pixels left, its colours not interpolated, as image.decode has a photograph that will shrink; null
// where the browser does not hand out what is stored, or its colours are of another profile, which a canvas converts.
async function fromPlanes(blob, k) {
    const head = new TextDecoder("latin1").decode(await blob.slice(0, 2 ** 18).arrayBuffer());
    if (!globalThis.ImageDecoder || head.includes("ICC_PROFILE\0")) return null;
    const {image} = await new ImageDecoder({data: await blob.arrayBuffer(), type: "image/jpeg"}).decode();
    const shares = {I420: [2, 2], I422: [2, 1], I444: [1, 1]}[image.format], turn = image.rotation;
    if (!shares || turn === undefined) {
        image.close();
        return null;
    }
    const {width, height} = image.visibleRect, data = new Uint8Array(image.allocationSize());
    const planes = (await image.copyTo(data)).map(({offset, stride}, place) => {
        const [a, b] = place ? shares : [1, 1], left = a * b === 4 ? Math.min(2 * k, 8) : k;
        const own = {width: stride, height: Math.ceil(height / b), data: data.subarray(offset)};
        const lines = size => left < 8 ? blockLines(size, left) : null;
        const small = reshape(own, lines(Math.ceil(width / a)), lines(own.height), false, 1);
        return (x, y) => small.data[Math.floor(y * left / (b * k)) * small.width + Math.floor(x * left / (a * k))];
    });
    const wide = Math.ceil(width * k / 8), high = Math.ceil(height * k / 8), out = new Uint8ClampedArray(wide * high * 3);
    const [across, down] = turn % 180 ? [high, wide] : [wide, high];
    for (let row = 0, to = 0; row < down; row++) {
        for (let column = 0; column < across; column++, to += 3) {
            const seen = image.flip ? across - 1 - column : column;
            const x = {0: seen, 90: row, 180: wide - 1 - seen, 270: wide - 1 - row}[turn];
            const y = {0: row, 90: high - 1 - seen, 180: high - 1 - row, 270: seen}[turn];
            colour(out, to, ...planes.map(plane => plane(x, y)));
        }
    }
    image.close();
    return {width: across, height: down, data: out};
}

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
    const stored = jpeg && Math.min(width, height) > size ? await fromPlanes(blob, k) : null;
    if (stored) return stored;
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

// A prepared photograph is a JPEG; what that changes the model has learned with. Browsers' encoders give other pixels, so
// here is what libjpeg-turbo does, but for the bits: 4:2:0, its cosines (quick ones below 96), multiples of steps.
const LUMA = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
    80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
    95, 98, 112, 100, 103, 99,
];
const CHROMA = [17, 18, 24, 47, 18, 21, 26, 66, 24, 26, 56, 99, 47, 66, 99, 99];  // of the lowest frequencies, else 99
const SCALES = Array.from({length: 8}, (_, u) => u ? Math.SQRT2 * Math.cos(u * Math.PI / 16) : 1);
const EXACT = [  // jidctint.c, jfdctint.c: 8192 times the cosines of the first four lines
    [8192, 11363, 10703, 9633, 8192, 6437, 4433, 2260], [8192, 9633, 4433, -2259, -8192, -11362, -10704, -6436],
    [8192, 6437, -4433, -11362, -8192, 2261, 10704, 9633], [8192, 2260, -10703, -6436, 8192, 9633, -4433, -11363],
];
const COSINES = [...EXACT, ...EXACT.toReversed().map(line => line.map((value, u) => u % 2 ? -value : value))].flat();

// jfdctfst.c: frequency u comes 8 ** 0.5 * SCALES[u] times too large.
function transform(d, from, step) {
    const at = n => from + n * step, [a, b, c, e] = [0, 1, 2, 3].map(n => d[at(n)] + d[at(7 - n)]);
    const [t7, t6, t5, t4] = [0, 1, 2, 3].map(n => d[at(n)] - d[at(7 - n)]);
    const even = a - e, z1 = (b - c + even) * 181 >> 8;
    d[at(0)] = a + e + b + c;
    d[at(4)] = a + e - b - c;
    d[at(2)] = even + z1;
    d[at(6)] = even - z1;
    const z5 = (t4 + t5 - t6 - t7) * 98 >> 8, z3 = (t5 + t6) * 181 >> 8;
    const z2 = ((t4 + t5) * 139 >> 8) + z5, z4 = ((t6 + t7) * 334 >> 8) + z5;
    d[at(5)] = t7 - z3 + z2;
    d[at(3)] = t7 - z3 - z2;
    d[at(1)] = t7 + z3 + z4;
    d[at(7)] = t7 + z3 - z4;
}

// out = a b / 2 ** bits, of 8x8; the strides of a and b say which is turned
function product(out, a, aRow, aColumn, b, bRow, bColumn, bits) {
    for (let i = 0; i < 64; i++) {
        let sum = 1 << bits - 1;
        for (let k = 0; k < 8; k++) sum += a[(i >> 3) * aRow + k * aColumn] * b[k * bRow + (i & 7) * bColumn];
        out[i] = sum >> bits;
    }
}

// A plane as it comes back from blocks of 8x8 frequencies, each a multiple of its step.
function quantized(data, width, height, steps, quick) {
    const out = new Uint8ClampedArray(data.length), block = new Int32Array(64), half = new Int32Array(64);
    const divisors = steps.map((step, i) => Math.round(8 * step * (quick ? SCALES[i >> 3] * SCALES[i & 7] : 1)));
    for (let top = 0; top < height; top += 8) {
        for (let left = 0; left < width; left += 8) {
            for (let i = 0; i < 64; i++) {  // the last line stands for those that are missing
                const y = Math.min(top + (i >> 3), height - 1), x = Math.min(left + (i & 7), width - 1);
                block[i] = data[y * width + x] - 128;
            }
            if (quick) {
                for (let i = 0; i < 8; i++) transform(block, 8 * i, 1);
                for (let i = 0; i < 8; i++) transform(block, i, 8);
            } else {
                product(half, block, 8, 1, COSINES, 8, 1, 11);
                product(block, COSINES, 1, 8, half, 8, 1, 15);
            }
            for (let i = 0; i < 64; i++) {
                block[i] = Math.sign(block[i]) * Math.floor(Math.abs(block[i]) / divisors[i] + 0.5) * steps[i];
            }
            product(half, COSINES, 8, 1, block, 8, 1, 11);
            product(block, half, 8, 1, COSINES, 1, 8, 18);
            for (let y = top; y < Math.min(top + 8, height); y++) {
                for (let x = left; x < Math.min(left + 8, width); x++) {
                    out[y * width + x] = block[8 * (y - top) + x - left] + 128;
                }
            }
        }
    }
    return out;
}

function recode({width, height, data}, quality) {
    const quick = quality < 96;
    const percents = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality;
    const step = entry => Math.min(Math.max(Math.floor((entry * percents + 50) / 100), 1), 255);
    const chroma = Array.from({length: 64}, (_, i) => step((i & 7) < 4 && i < 32 ? CHROMA[(i >> 1 & 12) + (i & 7)] : 99));
    const luma = new Uint8Array(width * height), full = [new Uint8Array(width * height), new Uint8Array(width * height)];
    for (let i = 0; i < width * height; i++) {
        const r = data[3 * i], g = data[3 * i + 1], b = data[3 * i + 2];
        luma[i] = 19595 * r + 38470 * g + 7471 * b + 32768 >> 16;
        full[0][i] = -11059 * r - 21709 * g + 32768 * b + 8421375 >> 16;
        full[1][i] = 32768 * r - 27439 * g - 5329 * b + 8421375 >> 16;
    }
    const wide = Math.ceil(width / 2), high = Math.ceil(height / 2), stride = 8 * Math.ceil(wide / 8);  // of whole blocks
    const [cb, cr] = full.map(plane => {
        const small = new Uint8Array(stride * high);
        for (let y = 0; y < high; y++) {
            for (let x = 0; x < stride; x++) {
                const row = 2 * y * width, below = Math.min(2 * y + 1, height - 1) * width;
                const left = Math.min(2 * x, width - 1), right = Math.min(2 * x + 1, width - 1);
                const sum = plane[row + left] + plane[row + right] + plane[below + left] + plane[below + right];
                small[y * stride + x] = sum + 1 + x % 2 >> 2;
            }
        }
        return quantized(small, stride, high, chroma, quick);
    });
    const out = new Uint8ClampedArray(data.length), bright = quantized(luma, width, height, LUMA.map(step), quick);
    for (let y = 0, to = 0; y < height; y++) {
        const near = (y >> 1) * stride, far = clamp((y >> 1) + (y % 2 ? 1 : -1), high - 1) * stride;
        for (let x = 0; x < width; x++) {
            const here = x >> 1, beside = clamp(here + (x % 2 ? 1 : -1), wide - 1), share = 8 - x % 2;
            const smooth = plane => (9 * plane[near + here] + 3 * (plane[far + here] + plane[near + beside]) +
                plane[far + beside] + share >> 4);
            colour(out, to, bright[y * width + x], smooth(cb), smooth(cr));
            to += 3;
        }
    }
    return out;
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
    const result = {pictures: 0, different: [], difference: 0, milliseconds: 0}, times = [];
    for (const [name, expected] of Object.entries(about.expected)) {
        const blob = await (await fetch(`data:application/octet-stream;base64,${pictures[name]}`)).blob();
        result.pictures += 1;
        let found;
        try {
            const began = performance.now();
            found = await classify(blob);
            times.push(performance.now() - began);
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
    if (times.length) result.milliseconds = times.sort((a, b) => a - b)[times.length >> 1];
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
        `${result.difference.toPrecision(2)}; one takes ${result.milliseconds.toFixed(0)} ms (median).`);
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
