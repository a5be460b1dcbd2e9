"use strict";

// `MelSpectrogram` of wavflow/mel.py, by the settings `spec` that travel with a model: T samples in [-1, 1] to the natural log of
// T // hop_length frames, (n_mels, frames), row by row.
function logMel(audio, spec) {
  const { n_fft, hop_length, win_length, n_mels, center } = spec;
  const frames = Math.floor(audio.length / hop_length);
  const before = center ? n_fft / 2 : Math.floor((n_fft - hop_length) / 2);
  const after = center ? before : n_fft - hop_length - before;
  // Too short to be reflected: followed by zeros.
  const length = audio.length <= Math.max(before, after, hop_length - 1) ? audio.length + n_fft : audio.length;
  const reflected = (t) => audio[t < 0 ? -t : t < length ? t : 2 * (length - 1) - t] ?? 0;

  const window = new Float64Array(n_fft); // Hann's, periodic, in the middle of the frame
  const margin = Math.floor((n_fft - win_length) / 2);
  for (let i = 0; i < win_length; i++) window[margin + i] = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / win_length);

  const bands = filterbank(spec), transform = fourier(n_fft);
  const frame = new Float64Array(n_fft), magnitude = new Float64Array(n_fft / 2 + 1), mel = new Float32Array(n_mels * frames);
  for (let f = 0; f < frames; f++) {
    for (let i = 0; i < n_fft; i++) frame[i] = window[i] * reflected(f * hop_length - before + i);
    const { re, im } = transform(frame);
    for (let k = 0; k < magnitude.length; k++) magnitude[k] = Math.sqrt(re[k] ** 2 + im[k] ** 2 + 1e-9);
    bands.forEach(({ first, weights }, m) => {
      const sum = weights.reduce((total, weight, i) => total + weight * magnitude[first + i], 0);
      mel[m * frames + f] = Math.log(Math.max(sum, 1e-5));
    });
  }
  return mel;
}

// Slaney's triangles, each of area 1 over Hz: the first bin and the weights of each band.
function filterbank({ sample_rate, n_fft, n_mels, f_min, f_max }) {
  const step = Math.log(6.4) / 27; // of a mel, above 15 mels = 1000 Hz; below, a mel is 200 / 3 Hz
  const mels = (hertz) => (hertz < 1000 ? (hertz * 3) / 200 : 15 + Math.log(hertz / 1000) / step);
  const hertz = (mels) => (mels < 15 ? (mels * 200) / 3 : 1000 * Math.exp(step * (mels - 15)));
  const [bottom, top] = [mels(f_min), mels(f_max)];
  const edge = (m) => hertz(bottom + ((top - bottom) * m) / (n_mels + 1));
  const bins = Float64Array.from({ length: n_fft / 2 + 1 }, (_, k) => (k * Math.floor(sample_rate / 2)) / (n_fft / 2));
  return Array.from({ length: n_mels }, (_, m) => {
    const [low, peak, high] = [edge(m), edge(m + 1), edge(m + 2)];
    const weights = bins.map((bin) => (2 / (high - low)) * Math.max(0, Math.min((bin - low) / (peak - low), (high - bin) / (high - peak))));
    const first = weights.findIndex((weight) => weight > 0);
    return { first, weights: weights.slice(first, weights.findLastIndex((weight) => weight > 0) + 1) };
  });
}

// Returns the discrete Fourier transform of real signals of n samples, by n's prime factors.
function fourier(n) {
  const cos = Float64Array.from({ length: n }, (_, i) => Math.cos((2 * Math.PI * i) / n));
  const sin = Float64Array.from({ length: n }, (_, i) => -Math.sin((2 * Math.PI * i) / n));
  const re = new Float64Array(n), im = new Float64Array(n), xr = new Float64Array(n), xi = new Float64Array(n);
  // Writes the transform of signal[offset + stride * i], i < size, from `at` on.
  const part = (signal, offset, stride, size, at) => {
    if (size === 1) return ([re[at], im[at]] = [signal[offset], 0]);
    let prime = 2;
    while (size % prime) prime++;
    const m = size / prime;
    for (let r = 0; r < prime; r++) part(signal, offset + r * stride, stride * prime, m, at + r * m);
    for (let k = 0; k < m; k++) {
      for (let r = 0; r < prime; r++) [xr[r], xi[r]] = [re[at + r * m + k], im[at + r * m + k]];
      for (let q = k; q < size; q += m) {
        let real = 0, imaginary = 0;
        for (let r = 0; r < prime; r++) {
          const turn = (r * q * stride) % n;
          real += xr[r] * cos[turn] - xi[r] * sin[turn];
          imaginary += xr[r] * sin[turn] + xi[r] * cos[turn];
        }
        [re[at + q], im[at + q]] = [real, imaginary];
      }
    }
  };
  return (signal) => (part(signal, 0, 1, n, 0), { re, im });
}
