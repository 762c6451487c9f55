// Reads tests/vectors and computes everything in them anew, from docs/protocol.md and other people's primitives: a second
// implementation of the formats, which shares no line with the first. usage: node vectors.mjs VECTORS_DIR
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { blake3 } from '@noble/hashes/blake3';
import { argon2id } from '@noble/hashes/argon2';
import { blake2b } from '@noble/hashes/blake2b';
import { ed25519, x25519 } from '@noble/curves/ed25519';
import { hsalsa, xsalsa20poly1305 } from '@noble/ciphers/salsa';

const folder = process.argv[2];
// numbers that a double would round stay text
const read = (name) => JSON.parse(fs.readFileSync(`${folder}/${name}.json`, 'utf8').replace(/: (\d{16,})/g, ': "$1"'));
const hex = (bytes) => Buffer.from(bytes).toString('hex');
const un = (text) => Buffer.from(text, 'hex');
const ascii = (text) => Buffer.from(text, 'latin1');
const cat = (...parts) => Buffer.concat(parts.map((p) => Buffer.from(p)));
const be = (n, size) => un(BigInt.asUintN(size * 8, BigInt(n)).toString(16).padStart(size * 2, '0'));
const num = (bytes) => BigInt(`0x${hex(bytes)}`);
const H = (label, ...m) => Buffer.from(blake3(cat(...m), { context: ascii(`claw-sync v1 ${label}`) }));
const B3 = (...m) => Buffer.from(blake3(cat(...m)));
// a copy of the key, as the library writes over a Buffer's
const MAC = (key, n, ...m) => Buffer.from(blake3(cat(...m), { key: new Uint8Array(key), dkLen: n }));
const box = (key, nonce, m) => Buffer.from(xsalsa20poly1305(key, nonce).encrypt(m));
const unbox = (key, nonce, c) => Buffer.from(xsalsa20poly1305(key, nonce).decrypt(c));
const sign = (seed, label, ...m) => Buffer.from(ed25519.sign(H(label, ...m), seed));
const signed = (pk, label, sig, ...m) => ed25519.verify(sig, H(label, ...m), pk, { zip215: false });

let checks = 0;
function same(got, want, what) {
  checks += 1;
  assert.equal(typeof got === 'string' ? got : hex(got), typeof want === 'string' ? want : hex(want), what);
}
function holds(condition, what) {
  checks += 1;
  assert.ok(condition, what);
}

// crypto_box: X25519, then HSalsa20 over the zero nonce
function boxKey(secret, pk) {
  const words = (b) => new Uint32Array(new Uint8Array(b).buffer);
  const out = new Uint32Array(8);
  hsalsa(words(ascii('expand 32-byte k')), words(x25519.getSharedSecret(secret, pk)), words(new Uint8Array(16)), out);
  return Buffer.from(out.buffer);
}
function sealTo(pk, ephemeral, m) {
  const epk = x25519.getPublicKey(ephemeral);
  return cat(epk, box(boxKey(ephemeral, pk), blake2b(cat(epk, pk), { dkLen: 24 }), m));
}
function openSeal(secret, sealed) {
  const epk = sealed.subarray(0, 32);
  return unbox(boxKey(secret, epk), blake2b(cat(epk, x25519.getPublicKey(secret)), { dkLen: 24 }), sealed.subarray(32));
}

function keysOf(kind, secret, workspace) {
  const p = cat(secret, workspace);
  const k = { seed: H(`${kind} sign`, p), box: H(`${kind} box`, p) };
  k.pk = Buffer.from(ed25519.getPublicKey(k.seed));
  k.boxPk = Buffer.from(x25519.getPublicKey(k.box));
  if (kind === 'device') Object.assign(k, { local: H('device local', p), hedge: H('device hedge', p) });
  else Object.assign(k, { vouch: H(`${kind} vouch`, p), id: H(`${kind} id`, p).subarray(0, 16) });
  return k;
}
function keysIn(kind, v) {
  const k = keysOf(kind, un(v.secret), un(v.workspace));
  const names = { seed: 'sign_seed', pk: 'sign_pk', box: 'box_secret', boxPk: 'box_pk' };
  for (const name in k) same(k[name], v[names[name] ?? name], `${kind} ${name}`);
  return k;
}

function epochOf(key, workspace, epoch) {
  const e = cat(key, workspace, be(epoch, 4));
  return Object.fromEntries(['batch key', 'nonce key', 'history key', 'name key', 'value key', 'tag key', 'epoch commitment']
    .map((label) => [label.replace('epoch ', '').replace(' ', '_'), H(label, e)]));
}

function base32(bytes) {
  const digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
  const bits = [...bytes].map((b) => b.toString(2).padStart(8, '0')).join('');
  return (bits.match(/.{1,5}/g) ?? []).map((five) => digits[parseInt(five.padEnd(5, '0'), 2)]).join('');
}

function phraseOf(secret) {
  const bytes = cat(secret, H('phrase check', secret).subarray(0, 4));
  const bits = [...bytes].map((b) => b.toString(2).padStart(8, '0')).join('');
  const word = (w) => 'bdfghjklmnprstvz'[parseInt(w.slice(0, 4), 2)] + 'aiou'[parseInt(w.slice(4, 6), 2)];
  return bits.match(/.{12}/g).map((w) => word(w.slice(0, 6)) + word(w.slice(6))).join(' ');
}

function padme(n) {
  if (n < 2) return n;
  const e = Math.floor(Math.log2(n));
  const unit = 2 ** (e - (Math.floor(Math.log2(e)) + 1));
  return unit <= 1 ? n : Math.ceil(n / unit) * unit;
}

// ---- primitives, keys, randomness ----

function primitives(v) {
  for (const l of v.labels) same(H(l.label, un(l.input)), l.output, l.label);
  for (const kind of ['device', 'recovery', 'invite']) keysIn(kind, v[kind]);
  const e = epochOf(un(v.epoch.key), un(v.epoch.workspace), v.epoch.epoch);
  for (const name in e) same(e[name], v.epoch[name], name);
  same(MAC(e.tag_key, 16, un(v.epoch.tag_message)), v.epoch.tag, 'tag');

  const r = v.random;
  const drawn = cat(un(r.os), be(r.realtime_ns, 8), be(r.monotonic_ns, 8), be(r.pid, 8), be(r.counter, 8));
  same(MAC(H('random key', un(r.hedge)), r.output.length / 2, drawn), r.output, 'random');

  const s = v.sealed_box;
  same(x25519.getPublicKey(un(s.recipient_secret)), s.recipient_pk, 'recipient');
  same(sealTo(un(s.recipient_pk), un(s.ephemeral_secret), un(s.message)), s.sealed, 'sealed box');
  same(openSeal(un(s.recipient_secret), un(s.sealed)), s.message, 'sealed box, opened');
  for (const [n, padded] of v.padme) same(String(padme(n)), String(padded), `padme ${n}`);
}

// ---- batches ----

function batch(b, seed, pk, epoch) {
  const header = un(b.header);
  const packed = un(b.packed);
  const both = MAC(epoch.batch_key, 64, header);
  const nonce = MAC(epoch.nonce_key, 24, un(b.random), header, packed);
  const padded = header[6] === 1 ? padme(packed.length) : packed.length;
  same(be(packed.length, 4), header.subarray(100, 104), 'packed length');
  same(both.subarray(0, 32), b.key, 'batch key');
  same(both.subarray(32), b.commitment, 'commitment');
  same(nonce, b.nonce, 'nonce');
  const sealed = cat(both.subarray(32), nonce, box(both.subarray(0, 32), nonce, cat(packed, Buffer.alloc(padded - packed.length))));
  same(sealed, b.sealed, 'sealed');
  const hashes = [];
  let at = 0;
  for (const c of b.chunks) {
    const hash = B3(sealed.subarray(at, at + c.length));
    at += c.length;
    same(hash, c.payload_hash, 'payload hash');
    same(hash.subarray(0, 16).toString('base64url'), c.chunk_id, 'chunk id');
    hashes.push(hash);
  }
  same(String(at), String(sealed.length), 'chunks');
  same(be(b.chunks.length, 4), header.subarray(52, 56), 'chunk count');
  const hash = H('batch', header, ...hashes);
  same(hash, b.batch_hash, 'batch hash');
  same(sign(seed, 'batch', header, ...hashes), b.signature, 'batch signature');
  holds(signed(pk, 'batch', un(b.signature), header, ...hashes), 'batch signature');
  return { hash, number: num(header.subarray(56, 64)), prev: header.subarray(64, 96) };
}

function batches(v) {
  const device = keysIn('device', v.device);
  const epoch = epochOf(un(v.epoch.key), un(v.epoch.workspace), v.epoch.epoch);
  let last = Buffer.alloc(32);
  same(device.pk, v.chain.sign_pk, 'chain');
  v.chain.batches.forEach((b, i) => {
    const { hash, number, prev } = batch(b, device.seed, device.pk, epoch);
    same(String(number), String(i + 1), 'number');
    same(prev, last, 'prev');
    last = hash;
  });
  for (const b of v.chunk_boundaries) batch(b, device.seed, device.pk, epoch);
}

// ---- membership ----

const KINDS = { device: 1, paper: 2, invite: 3 };

function recordAt(body, workspace) {
  const r = { id: body.subarray(0, 16), kind: body[16], signPk: body.subarray(20, 52), boxPk: body.subarray(52, 84),
    possession: body.subarray(84, 148), nameEpoch: body.readUInt32BE(148), name: body.subarray(152, 256) };
  holds(signed(r.signPk, 'possession', r.possession, workspace, r.id, [r.kind], r.signPk, r.boxPk), 'possession');
  return r;
}

function epochBlock(bytes) {
  const b = { epoch: bytes.readUInt32BE(0), commitment: bytes.subarray(4, 36), history: bytes.subarray(36, 84), wraps: new Map() };
  const count = bytes.readUInt16BE(84);
  for (let i = 0; i < count; i++) b.wraps.set(hex(bytes.subarray(86 + 96 * i, 102 + 96 * i)), bytes.subarray(102 + 96 * i, 182 + 96 * i));
  same(String(bytes.length), String(86 + 96 * count), 'epoch block');
  holds([...b.wraps.keys()].every((id, i, all) => i === 0 || all[i - 1] < id), 'ids ascend');
  return b;
}

function membership(v) {
  const m = v.membership;
  const workspace = un(m.workspace);
  const boxes = new Map();
  const vouchers = new Map();
  for (const [name, kind] of [['device_a', 'device'], ['device_b', 'device'], ['device_c', 'device'], ['invite', 'invite'], ['paper', 'recovery']]) {
    const k = keysIn(kind, m[name]);
    boxes.set(hex(k.boxPk), k.box);
    if (k.vouch) vouchers.set(hex(k.id), k.vouch);
  }
  const state = { members: new Map(), epochs: [], head: Buffer.alloc(32), refills: 0 };
  const wrapped = (wrap, boxPk, epoch) => {
    const key = openSeal(boxes.get(hex(boxPk)), wrap);
    same(epochOf(key, workspace, epoch).commitment, state.epochs[epoch - 1].commitment, 'a wrap holds its epoch');
    state.epochs[epoch - 1].key = key;
  };
  const begin = (block, seq) => {
    same(String(block.epoch), String(state.epochs.length + 1), 'next epoch');
    state.epochs.push({ seq, commitment: block.commitment, history: block.history });
    const active = [...state.members.values()].filter((x) => x.active);
    assert.deepEqual([...block.wraps.keys()], active.map((x) => hex(x.id)).sort());
    for (const x of active) wrapped(block.wraps.get(hex(x.id)), x.boxPk, block.epoch);
    const { key } = state.epochs[block.epoch - 1];
    if (block.epoch === 1) same(block.history, Buffer.alloc(48), 'no history');
    else same(unbox(epochOf(key, workspace, block.epoch).history_key, Buffer.alloc(24), block.history), state.epochs[block.epoch - 2].key, 'history');
  };
  const add = (body, kind, seq, author) => {
    const r = recordAt(body, workspace);
    same(String(r.kind), String(kind), 'kind');
    state.members.set(hex(r.id), { ...r, active: true, addedSeq: seq, addedBy: author, endedSeq: 0, expires: 0n });
    return r;
  };
  const vouched = (entry, id) => same(MAC(vouchers.get(hex(id)), 32, entry.subarray(0, -96)), entry.subarray(-96, -64), 'vouch');

  m.entries.forEach(({ entry: text, hash, state: want }, i) => {
    const entry = un(text);
    const seq = i + 1;
    const body = entry.subarray(88, -64);
    const author = entry.subarray(64, 80);
    same(entry.subarray(0, 4).toString(), 'CSM1', 'magic');
    same(entry.subarray(5, 8), Buffer.alloc(3), 'zeros');
    same(entry.subarray(8, 24), workspace, 'workspace');
    same(entry.subarray(24, 28), be(seq, 4), 'seq');
    same(entry.subarray(28, 32), be(body.length, 4), 'length');
    same(entry.subarray(32, 64), state.head, 'prev');
    switch (entry[4]) {
      case 1:
        add(body, KINDS.device, seq, author);
        begin(epochBlock(body.subarray(256)), seq);
        break;
      case 2: {
        const r = add(body, KINDS.invite, seq, author);
        wrapped(body.subarray(260, 340), r.boxPk, body.readUInt32BE(256));
        state.members.get(hex(r.id)).expires = num(body.subarray(388, 396));
        same(body.subarray(396, 428), m.hub_key, 'hub key');
        vouched(entry, r.id);
        break;
      }
      case 3: {
        const r = add(body, KINDS.device, seq, author);
        const by = state.members.get(hex(author));
        wrapped(body.subarray(260, 340), r.boxPk, body.readUInt32BE(256));
        if (by.kind === KINDS.invite) Object.assign(by, { active: false, endedSeq: seq });
        break;
      }
      case 4: {
        const count = body.readUInt16BE(0);
        for (let k = 0; k < count; k++)
          Object.assign(state.members.get(hex(body.subarray(2 + 56 * k, 18 + 56 * k))), { active: false, endedSeq: seq });
        for (const x of state.members.values()) // open invites go with whoever wrote them
          if (x.kind === KINDS.invite && x.active && !state.members.get(hex(x.addedBy)).active)
            Object.assign(x, { active: false, endedSeq: seq });
        begin(epochBlock(body.subarray(2 + 56 * count)), seq);
        break;
      }
      case 5:
        begin(epochBlock(body), seq);
        break;
      case 6: {
        const r = add(body, KINDS.paper, seq, author);
        wrapped(body.subarray(260, 340), r.boxPk, body.readUInt32BE(256));
        vouched(entry, r.id);
        break;
      }
      case 7:
        Object.assign(state.members.get(hex(body.subarray(0, 16))), { nameEpoch: body.readUInt32BE(16), name: body.subarray(20, 124) });
        break;
      case 8: {
        const count = body.readUInt16BE(96);
        const ids = Array.from({ length: count }, (_, k) => hex(body.subarray(98 + 56 * k, 114 + 56 * k)));
        same(String(body.length), String(98 + 56 * count), 'refill');
        assert.deepEqual(ids, [...ids].sort());
        assert.notDeepEqual(body.subarray(48, 56), body.subarray(0, 8));
        state.refills += 1;
        state.refill = { seq, to: body.subarray(48, 96) };
        break;
      }
      default:
        assert.fail(`entry type ${entry[4]}`);
    }
    state.head = H('member entry', entry.subarray(0, -64));
    same(state.head, hash, 'entry hash');
    holds(signed(state.members.get(hex(author)).signPk, 'member entry', entry.subarray(-64), entry.subarray(0, -64)), 'entry signature');

    same(state.head, want.head, 'head');
    same(m.entries[0].hash, want.genesis, 'genesis');
    same(String(seq), String(want.seq), 'seq');
    same(String(state.epochs.length), String(want.epoch), 'epoch');
    same(state.epochs.at(-1).commitment, want.commitment, 'commitment');
    want.epochs.forEach((x, k) => {
      same(String(state.epochs[k].seq), String(x.seq), 'epoch began');
      same(state.epochs[k].key, x.key, 'epoch key');
      same(state.epochs[k].history, x.history, 'history');
      same(state.epochs[k].commitment, x.commitment, 'commitment');
    });
    same(String(state.refills), String(want.refills), 'refills');
    if (state.refills > 0) {
      same(String(state.refill.seq), String(want.refill_seq), 'refill');
      same(state.refill.to, cat(be(want.refill_log_id, 8), be(want.refill_number, 8), un(want.refill_log_hash)), 'refill, log');
    }
    same(String(state.members.size), String(want.members.length), 'members');
    for (const x of want.members) {
      const have = state.members.get(x.id);
      same(String(have.active), String(x.active), 'active');
      same(String(have.kind), String(x.kind), 'kind');
      same(have.signPk, x.sign_pk, 'sign key');
      same(have.boxPk, x.box_pk, 'box key');
      same(String(have.addedSeq), String(x.added_seq), 'added');
      same(have.addedBy, x.added_by, 'added by');
      same(String(have.endedSeq), String(x.ended_seq), 'ended');
      same(String(have.expires), String(x.expires_ms), 'expires');
      const nameKey = epochOf(state.epochs[have.nameEpoch - 1].key, workspace, have.nameEpoch).name_key;
      const name = unbox(MAC(nameKey, 32, have.id), have.name.subarray(0, 24), have.name.subarray(24));
      same(name.subarray(1, 1 + name[0]).toString(), x.name, 'name');
      same(name.subarray(1 + name[0]), Buffer.alloc(63 - name[0]), 'name, padded');
    }
  });
  assert.deepEqual([...new Set(m.entries.map((x) => un(x.entry)[4]))].sort(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

// ---- what people carry, and pairing ----

function carried(v) {
  const bytes = un(v.code.bytes);
  same(H('code check', bytes.subarray(0, -4)).subarray(0, 4), bytes.subarray(-4), 'code check');
  same(`CLAW1-${base32(bytes).match(/.{1,5}/g).join('-')}`, v.code.text, 'code');
  same(bytes.subarray(2, 18), v.invite.secret, 'code, secret');
  same(bytes.subarray(18, 34), v.invite.workspace, 'code, workspace');
  same(phraseOf(un(v.phrase.secret)), v.phrase.text, 'phrase');

  const p = v.pairing;
  const [offer, answer, reveal, done] = [p.offer, p.answer, p.reveal, p.done].map(un);
  const workspace = offer.subarray(4, 20);
  const nonce = un(p.new_device_nonce);
  same(offer.subarray(0, 4).toString() + answer.subarray(0, 4) + reveal.subarray(0, 4) + done.subarray(0, 4), 'CSJ1CSJ2CSJ3CSJ4', 'magic');
  same(offer.subarray(100, 132), x25519.getPublicKey(un(p.new_device_ephemeral_secret)), 'offer');
  holds(signed(offer.subarray(36, 68), 'possession', offer.subarray(132, 196), workspace, offer.subarray(20, 36), [1],
    offer.subarray(36, 68), offer.subarray(68, 100)), 'offer, possession');
  same(H('pair commit', nonce, offer.subarray(0, 196)), offer.subarray(196), 'commitment');
  same(B3(offer), answer.subarray(4, 36), 'answer');
  same(answer.subarray(84, 116), x25519.getPublicKey(un(p.member_ephemeral_secret)), 'answer');
  same(reveal.subarray(4), nonce, 'reveal');
  const transcript = cat(offer, answer, nonce);
  same(base32(H('pair string', transcript).subarray(0, 5)), p.string, 'string');
  const key = H('pair key', x25519.getSharedSecret(un(p.new_device_ephemeral_secret), answer.subarray(84, 116)), transcript);
  const end = unbox(key, done.subarray(4, 28), done.subarray(28));
  same(end.subarray(0, 4), be(p.member_seq, 4), 'done, member_seq');
  same(end.subarray(4, 36), p.entry_hash, 'done, entry');
  same(String(end.length), '84', 'done');
}

// ---- heads, sessions, files, audit ----

function heads(v) {
  const { heads: h } = v;
  const seed = H('hub sign', un(h.hub_seed));
  const head = un(h.head);
  const logId = head.subarray(0, 8);
  same(ed25519.getPublicKey(seed), h.hub_pk, 'hub key');
  let l = H('log start', un(h.workspace), logId, be(h.refilled, 8));
  h.log.forEach((entry, n) => {
    if (n > 0) l = H('log entry', l, be(n, 8), un(entry.batch_hash));
    same(l, entry.log_hash, `L_${n}`);
  });
  same(sign(seed, 'hub head', un(h.workspace), head), h.signature, 'head');
  same(H('seen', un(h.workspace), logId, head.subarray(16, 24), head.subarray(24, 56), head.subarray(56, 60), head.subarray(60, 92)), h.seen, 'seen');
  same(head.subarray(24, 56), l, 'head, L');
}

function refilled(v) {
  const r = v.refilled;
  same(H('log start', un(r.workspace), be(r.log_id, 8), be(r.refilled, 8)), r.log_start, 'L_0');
  same(String(BigInt(r.refilled) << 40n), String(r.chain_number), 'chain, number');
  same(H('chain start', un(r.workspace), be(r.log_id, 8)), r.chain_prev, 'chain, prev');
}

// ---- comparing states ----

function reconcile(v) {
  const r = v.reconcile;
  const frame = (bytes) => cat(be(bytes.length, 4), bytes);
  const version = (x) => cat(be(x.stamp, 8), un(x.device));
  const xor = (a, b) => a.map((byte, i) => byte ^ b[i]);
  const tagKey = epochOf(un(r.epoch_key), un(r.workspace), r.epoch).tag_key;
  const stateKey = H('entity state', tagKey);
  const rows = [];
  let sum = Buffer.alloc(16);
  const children = Array.from({ length: 16 }, () => Buffer.alloc(16));
  same(stateKey, r.state_key, 'state key');
  for (const e of r.entities) {
    const [table, key] = [ascii(e.table), un(e.key)];
    const row = cat(frame(table), frame(key), version(e.ins), version(e.del), be(e.cells.length, 4),
      ...e.cells.map((c) => cat(frame(ascii(c.column)), version(c.version), frame(un(c.value)))));
    const tag = MAC(tagKey, 16, be(table.length, 2), table, be(key.length, 4), key);
    const state = MAC(stateKey, 16, row);
    same(row, e.row, 'row');
    same(tag, e.tag, 'tag');
    same(state, e.state, 'state');
    rows.push(row);
    sum = xor(sum, state);
    children[tag[0] >> 4] = xor(children[tag[0] >> 4], state);
  }
  same(B3(ascii('claw-sync merged state 1\n'), ...rows), r.root, 'root');
  same(sum, r.sum, 'sum');
  same(cat(...children), r.sums_of_children, 'sums');

  const device = keysIn('device', r.device);
  proof(un(r.proof), r, stateKey, un(r.device_id), device.seed, r, r.time, 'proof');
}

// of the place that a names, and the state that r has
function proof(sealed, r, stateKey, id, seed, a, time, what) {
  same(sealed.subarray(0, 4), be(r.epoch, 4), `${what}, epoch`);
  const plain = unbox(MAC(stateKey, 32, ascii('proof'), id), sealed.subarray(4, 28), sealed.subarray(28));
  const statement = cat(ascii('CSV1'), un(a.workspace), id, be(a.log_id, 8), be(a.log_number, 8), un(a.log_hash),
    be(r.entities.length, 8), un(r.root), be(time, 8), Buffer.alloc(60));
  same(plain, cat(statement, sign(seed, 'state proof', statement)), what);
}

// ---- snapshots ----

// the state is reconcile's: its tables are the parts
function snapshot(v) {
  const [s, r] = [v.snapshot, v.reconcile];
  const epoch = epochOf(un(r.epoch_key), un(r.workspace), r.epoch);
  const stateKey = H('entity state', epoch.tag_key);
  const [author, attester] = [keysIn('device', s.device), keysIn('device', s.attester)];
  const place = cat(be(s.log_id, 8), be(s.log_number, 8));
  const tables = [...new Set(r.entities.map((e) => e.table))];
  const seen = H('seen', un(s.workspace), place, un(s.log_hash), be(s.member_seq, 4), un(s.entry_hash));
  let digest = H('snapshot start', un(s.workspace), un(s.device_id), place);
  same(digest, s.digest_start, 'D_0');
  same(String(s.parts.length), String(tables.length), 'parts');
  s.parts.forEach((p, i) => {
    const rows = r.entities.filter((e) => e.table === tables[i]).map((e) => un(e.row));
    const header = un(p.header);
    const { hash, number, prev } = batch(p, author.seed, author.pk, epoch);
    same(cat(...rows), p.packed, 'rows of a part');
    same(header.subarray(0, 6), cat(ascii('CSB1'), [2, 0]), 'kind of a part');
    same(header.subarray(96, 100), be(cat(...rows).length, 4), 'length of a part');
    same(header.subarray(104, 112), cat(be(rows.length, 4), be(s.member_seq, 4)), 'rows, member_seq');
    same(header.subarray(120, 136), place, 'place of a part');
    same(header.subarray(136, 168), seen, 'seen digest of a part');
    same(String(number), String(s.peer_a.number), "number: the chain's");
    same(prev, s.peer_a.hash, "prev: the chain's");
    digest = H('snapshot part', digest, be(i, 4), hash);
    same(digest, p.digest, `D_${i + 1}`);
  });

  const descriptor = un(s.descriptor);
  const peers = [s.peer_a, s.peer_b].map((p) => cat(un(p.device), be(p.number, 8), un(p.hash), be(p.member_seq, 4)));
  const sealed = descriptor.subarray(176, 476);
  const said = cat(ascii('CSS1'), un(s.workspace), un(s.device_id), place, un(s.log_hash), be(s.top_stamp, 8), be(s.member_seq, 4),
    un(s.entry_hash), be(s.highest_epoch, 4), be(s.parts.length, 4), be(r.entities.length, 8), digest, sealed,
    be(peers.length, 4), ...peers);
  same(descriptor, cat(said, sign(author.seed, 'snapshot', said)), 'descriptor');
  holds(signed(author.pk, 'snapshot', descriptor.subarray(-64), said), 'descriptor, signature');
  proof(sealed, r, stateKey, un(s.device_id), author.seed, s, s.time, "the author's proof");
  const attestation = un(s.attestation);
  proof(attestation.subarray(0, -64), r, stateKey, un(s.attester_id), attester.seed, s, s.attested_time, 'attestation');
  same(attestation.subarray(-64), sign(attester.seed, 'attestation', descriptor), 'attestation, signature');
}

function sessions(v) {
  const s = v.session;
  const hello = un(s.hello);
  const reply = un(s.reply);
  const t = H('session', hello.subarray(0, 1), reply.subarray(0, 1), hello.subarray(1), reply.subarray(1, 81));
  const key = H('session answer key', x25519.getSharedSecret(un(s.client_secret), reply.subarray(1, 33)), t);
  const workspace = un(s.workspace);
  const id = un(s.device);
  const device = keysOf('device', un(s.device_secret), workspace);
  const body = B3(un(s.body));
  same(x25519.getPublicKey(un(s.client_secret)), hello.subarray(1, 33), 'hello');
  same(t, s.transcript, 'T');
  same(key, s.answer_key, 'answer key');
  holds(signed(reply.subarray(49, 81), 'session', reply.subarray(81), hello.subarray(0, 1), reply.subarray(0, 1), hello.subarray(1), reply.subarray(1, 81)), 'reply');
  const sig = sign(device.seed, 'rpc', t, be(s.counter, 8), workspace, id, body, be(s.path.length, 2), ascii(s.path));
  same(`ClawSync1 ${cat(reply.subarray(33, 49), be(s.counter, 8), workspace, id, body, sig).toString('base64url')}`, s.authorization, 'authorization');
  same(sign(device.seed, 'register', t, be(s.register_counter, 8), workspace, id, device.pk, device.boxPk, B3(un(s.entry)), B3()), s.signed_challenge, 'challenge');
  same(sign(device.seed, 'refill', t, be(s.refill_counter, 8), workspace, id, B3(un(s.refill_content))), s.refill_challenge, 'refill');
  same(MAC(key, 32, [1], be(s.counter, 8), be(0, 4), B3(un(s.answer))), s.answer_mac, 'answer');
  same(MAC(key, 32, [1], be(s.counter, 8), be(16, 4), B3()), s.refusal_mac_16, 'refusal');
  same(MAC(key, 32, [2], un(s.batch_hash), [1], be(5, 8), be(0, 2)), s.push_mac_5, 'acknowledgement');
  const words = '9 stale-epoch so it is';
  same(MAC(key, 32, [2], un(s.batch_hash), [0], be(0, 8), be(words.length, 2), ascii(words)), s['push_mac_9_stale-epoch_so_it_is'], 'refused batch');
}

function files(v) {
  for (const [name, f] of Object.entries(v.files)) {
    const file = un(f.file);
    const head = file.subarray(0, 56);
    const cost = { t: head.readUInt32BE(8), m: head.readUInt32BE(12), p: 1, dkLen: 32 };
    same(head.subarray(0, 4).toString(), name === 'export' ? 'CSX1' : 'CSK1', 'magic');
    same(head.subarray(4, 8), Buffer.from([1, f.passphrase === null ? 0 : 1, 0, 0]), 'version');
    const secret = f.passphrase === null ? Buffer.alloc(32) : argon2id(ascii(f.passphrase), head.subarray(16, 32), cost);
    same(unbox(H('file key', head, secret), head.subarray(32), file.subarray(56)), f.body, name);
  }
}

function audit(a) {
  const [workspace, device] = [un(a.workspace), un(a.device)];
  let prev = H('audit start', workspace, device);
  same(prev, a.start, 'start');
  same(ed25519.getPublicKey(un(a.seed)), a.signer_pub_key, 'signer');
  for (const r of a.rows) {
    const [type, entity, ids] = [r.event_type, r.entity_type, r.entity_ids].map(un);
    const bytes = cat(ascii('CSA1'), be(r.sequence, 8), workspace, device, be(r.occurred_at, 8), be(r.ops_count, 8), prev, un(a.signer_pub_key),
      B3(un(r.payload)), be(type.length, 2), type, be(entity.length, 2), entity, be(ids.length, 4), ids);
    same(B3(un(r.payload)), r.payload_hash, 'payload');
    same(prev, r.prev_entry_hash, 'prev');
    prev = H('audit row', bytes);
    same(bytes, r.row, 'row');
    same(prev, r.hash, 'row hash');
    same(sign(un(a.seed), 'audit row', bytes), r.signature, 'signature');
  }
}

const v = read('crypto');
for (const part of [primitives, batches, membership, carried, heads, refilled, reconcile, snapshot, sessions, files]) part(v);
audit(read('audit'));
holds(checks > 1000, `only ${checks} values were compared`);
console.log(`${checks} values computed anew, all the same`);
