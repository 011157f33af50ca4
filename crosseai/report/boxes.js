/* From two maps to a box, step by step as crosseai.fusion and crosseai.boxes.rectangles do it.

   A map is {values: Float32Array, width, height}, its rows one after another. What Python computes
   in float32 is rounded by Math.fround or by being stored; all else is float64 in both, in the same
   order of operations, so that the boxes are the same. */
"use strict";

const boxes = (() => {
  const { abs, fround, max, min, trunc } = Math;

  /** Enlarge a map, bilinear with half-pixel centres, as Pillow does: across, then down. */
  function enlarge(map, width, height) {
    const { values } = map;
    const across = resized(values, map.width, width, map.height, 1, map.width);
    const down = resized(across, map.height, height, width, width, 1);
    return { values: down, width, height };
  }

  /** Resize `lines` lines of `from` values, `step` apart in a line, to lines of `to` values. */
  function resized(values, from, to, lines, step, stride) {
    if (from === to) return values;
    const result = new Float32Array(to * lines);
    const along = step === 1 ? 1 : lines;
    const next = step === 1 ? to : 1;
    const ratio = from / to;
    const support = max(ratio, 1);
    for (let at = 0; at < to; at++) {
      const centre = (at + 0.5) * ratio;
      const first = max(trunc(centre - support + 0.5), 0);
      const last = min(trunc(centre + support + 0.5), from);
      const weights = [];
      let total = 0;
      for (let x = first; x < last; x++) {
        weights.push(max(1 - abs((x - centre + 0.5) * (1 / support)), 0));
        total += weights[x - first];
      }
      for (let line = 0; line < lines; line++) {
        let sum = 0;
        for (let x = first; x < last; x++) {
          sum += values[line * stride + x * step] * (weights[x - first] / total);
        }
        result[at * along + line * next] = sum;
      }
    }
    return result;
  }

  /** Scale a map so that it spans 0 to 255; a constant one becomes zero. */
  function scaled(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      low = min(low, value);
      high = max(high, value);
    }
    const span = fround(high - low);
    if (!(span > 0)) return new Float32Array(values.length);
    return values.map((value) => fround(fround(value - low) / span) * 255);
  }

  /** Fuse two maps of one size: t times the heatmap, the rest the gradient map. */
  function fuse(heatmap, gradient, t) {
    const heat = scaled(heatmap.values);
    const fine = scaled(gradient.values);
    const share = fround(t);
    const rest = fround(1 - t);
    const values = heat.map((value, at) =>
      min(fround(fround(share * value) + fround(rest * fine[at])), 255),
    );
    return { ...heatmap, values };
  }

  /** Convolve with a symmetric kernel, its middle in the middle, down and across; edges repeat. */
  function smooth(map, kernel) {
    if (kernel.length < 2) return map;
    const { width, height } = map;
    const down = convolved(map.values, kernel, width, height, 1, width);
    return { ...map, values: convolved(down, kernel, height, width, width, 1) };
  }

  /** Convolve `lines` lines of `count` values that are `step` apart. */
  function convolved(values, kernel, lines, count, stride, step) {
    const result = new Float32Array(values.length);
    const reach = (kernel.length - 1) / 2;
    const padded = new Float64Array(count + 2 * reach);
    for (let line = 0; line < lines; line++) {
      for (let at = -reach; at < count + reach; at++) {
        padded[at + reach] = values[line * stride + min(max(at, 0), count - 1) * step];
      }
      for (let at = 0; at < count; at++) {
        const middle = at + reach;
        let sum = padded[middle] * kernel[reach];
        for (let away = reach; away > 0; away--) {
          sum += (padded[middle - away] + padded[middle + away]) * kernel[reach - away];
        }
        result[line * stride + at * step] = sum;
      }
    }
    return result;
  }

  /** Pixels strictly above a share of the maximum: Uint8Array of 0 and 1. */
  function maskOf({ values }, threshold) {
    const highest = values.reduce((one, other) => max(one, other), -Infinity);
    const limit = threshold * highest;
    return Uint8Array.from(values, (value) => (highest > 0 && value > limit ? 1 : 0));
  }

  /** All maximal all-ones rectangles [x1, y1, x2, y2], half-open, by a stack over row histograms. */
  function maximalRectangles(mask, width, height) {
    const found = [];
    const bars = new Int32Array(width + 1); // ones from y upward; the last stays 0 and ends all
    const zeroBelow = new Int32Array(width); // nearest column <= x with a zero in the next row
    const stack = []; // [left edge, height], heights strictly rising
    for (let y = 0; y < height; y++) {
      let zero = -1;
      for (let x = 0; x < width; x++) {
        bars[x] = mask[y * width + x] ? bars[x] + 1 : 0;
        if (y + 1 === height || !mask[(y + 1) * width + x]) zero = x;
        zeroBelow[x] = zero;
      }
      stack.length = 0;
      for (let x = 0; x <= width; x++) {
        let left = x;
        while (stack.length && stack.at(-1)[1] > bars[x]) {
          const [start, tall] = stack.pop();
          left = start;
          if (zeroBelow[x - 1] >= left) found.push([left, y + 1 - tall, x, y + 1]);
        }
        if (bars[x] && (!stack.length || stack.at(-1)[1] < bars[x])) stack.push([left, bars[x]]);
      }
    }
    return found;
  }

  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

  /** Order of equals: the larger, then the topmost, the leftmost, the wider. */
  const order = (one, other) =>
    area(other) - area(one) || one[1] - other[1] || one[0] - other[0] || one[3] - other[3];

  /** Sums over [0, y) x [0, x) of what `value` gives for each pixel, [height + 1, width + 1]. */
  function summed(width, height, value) {
    const sums = new Float64Array((width + 1) * (height + 1));
    for (let y = 0; y < height; y++) {
      let row = 0;
      for (let x = 0; x < width; x++) {
        row += value(y * width + x);
        sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
      }
    }
    return ([x1, y1, x2, y2]) => {
      const at = (x, y) => sums[y * (width + 1) + x];
      return at(x2, y2) - at(x1, y2) - at(x2, y1) + at(x1, y1);
    };
  }

  /** Add rings to a rectangle until one holds more zeros than ones. */
  function grown(box, ones, width, height, keepLastRing) {
    for (;;) {
      const [x1, y1, x2, y2] = box;
      const wider = [max(x1 - 1, 0), max(y1 - 1, 0), min(x2 + 1, width), min(y2 + 1, height)];
      const ring = area(wider) - area(box);
      const ringOnes = ones(wider) - ones(box);
      if (ring === 0 || ring - ringOnes > ringOnes) return keepLastRing ? wider : box;
      box = wider;
    }
  }

  /** Best box of a map by Algorithm 1, and the mask it was searched in; null where that is empty. */
  function findBox(map, { threshold, candidates, kernel, keepLastRing }) {
    const smoothed = smooth(map, kernel);
    const { values, width, height } = smoothed;
    const mask = maskOf(smoothed, threshold);
    const ones = summed(width, height, (at) => mask[at]);
    const sums = summed(width, height, (at) => (mask[at] ? values[at] : 0));
    const rectangles = maximalRectangles(mask, width, height).sort(order);
    let best = null;
    let highest = -Infinity;
    for (const rectangle of rectangles.slice(0, candidates || undefined)) {
      const box = grown(rectangle, ones, width, height, keepLastRing);
      const mean = sums(box) / area(box);
      if (mean > highest || (mean === highest && order(box, best) < 0)) {
        best = box;
        highest = mean;
      }
    }
    return { box: best, mask };
  }

  /** Intersection over union of two boxes in one frame. */
  function iou(one, other) {
    const wide = min(one[2], other[2]) - max(one[0], other[0]);
    const tall = min(one[3], other[3]) - max(one[1], other[1]);
    const both = max(wide, 0) * max(tall, 0);
    return both / (area(one) + area(other) - both);
  }

  /** Fuse two maps of one size and search the box: the map, its mask, the box in its pixels. */
  function solve(heatmap, gradient, settings) {
    const fused = fuse(heatmap, gradient, settings.t);
    const map = settings.size ? enlarge(fused, settings.size, settings.size) : fused;
    return { map, ...findBox(map, settings) };
  }

  return { enlarge, fuse, iou, solve };
})();
