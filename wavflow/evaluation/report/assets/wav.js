// Returns a WAV file of 16 bits of pieces of audio in [-1, 1), one after the other.
function wav(pieces, rate) {
  const bytes = 2 * pieces.reduce((sum, piece) => sum + piece.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const word = (place, text) => [...text].forEach((char, i) => header.setUint8(place + i, char.charCodeAt(0)));
  word(0, "RIFF");
  word(8, "WAVEfmt ");
  word(36, "data");
  for (const [place, value] of [[4, 36 + bytes], [16, 16], [24, rate], [28, 2 * rate], [40, bytes]]) header.setUint32(place, value, true);
  for (const [place, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) header.setUint16(place, value, true);
  const samples = pieces.map((piece) => Int16Array.from(piece, (x) => Math.max(-32768, Math.min(32767, Math.round(32768 * x)))));
  return new Blob([header, ...samples], { type: "audio/wav" });
}
