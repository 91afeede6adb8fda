package main

import (
	"encoding/binary"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/valyala/fastjson"
	"golang.org/x/crypto/blake2b"
)

// The bounds of a record (docs/protocol.md); lengths are in characters.
const (
	nameMax    = 256
	messageMax = 131_072
	valueMax   = 16_384
	pairsMax   = 128
	idDigits   = 32
)

// batch is one request: its body, the lines of its records, and what is reused from one request to the next.
type batch struct {
	body    []byte
	out     []byte // lines, joined by line breaks
	lines   int
	ids     []int // where each line's ID begins in out
	rest    int   // where the line's bytes after its ID begin
	pairs   int
	cut     []string // names of what was cut
	shared  []byte   // metadata that several records share, encoded
	sharedN int
	scratch []byte
	digest  hash.Hash
	sum     [16]byte
	actions []string
	parser  fastjson.Parser
	second  int64
	clock   [19]byte // of second, as 2026-01-31T23:59:59
}

func newBatch() *batch {
	digest, err := blake2b.New(len(batch{}.sum), []byte("go_receivers"))
	if err != nil {
		panic(err)
	}
	return &batch{digest: digest, second: -1 << 62}
}

func (b *batch) reset() {
	b.out, b.lines, b.ids, b.actions = b.out[:0], 0, b.ids[:0], b.actions[:0]
}

// begin opens a line: ["<id>", and leaves the ID for end.
func (b *batch) begin() {
	if b.lines > 0 {
		b.out = append(b.out, '\n')
	}
	b.out = append(b.out, '[', '"')
	b.ids = append(b.ids, len(b.out))
	b.out = append(b.out, "00000000000000000000000000000000\","...)
	b.rest = len(b.out)
	b.pairs, b.cut = 0, b.cut[:0]
}

// head writes service and message behind the timestamp, and opens the metadata.
func (b *batch) head(service, message string) {
	if service == "" {
		service = "unknown"
	}
	b.out = append(b.out, ',')
	b.out = appendString(b.out, b.bounded(service, nameMax, "service"))
	b.out = append(b.out, ',')
	b.out = appendString(b.out, b.bounded(message, messageMax, "message"))
	b.out = append(b.out, ',', '{')
}

// end closes a line and fills its ID in: a digest of the line and its position.
func (b *batch) end() {
	if len(b.cut) > 0 {
		b.pair("inlet.truncated", strings.Join(b.cut, ","))
	}
	b.out = append(b.out, '}', ']')
	var position [8]byte
	binary.LittleEndian.PutUint64(position[:], uint64(b.lines))
	b.digest.Reset()
	b.digest.Write(position[:])
	b.digest.Write(b.out[b.rest:])
	b.digest.Sum(b.sum[:0])
	at := b.ids[b.lines]
	hex.Encode(b.out[at:at+idDigits], b.sum[:])
	b.lines++
}

func (b *batch) id(line int) []byte {
	at := b.ids[line]
	return b.out[at : at+idDigits]
}

// name writes a pair's name and returns false if there are too many pairs already.
func (b *batch) name(prefix, name string) bool {
	if b.pairs >= pairsMax {
		return false
	}
	if b.pairs > 0 {
		b.out = append(b.out, ',')
	}
	b.pairs++
	if len(prefix)+len(name) > nameMax {
		joined := prefix + name
		b.out = appendString(b.out, b.bounded(joined, nameMax, joined[:nameMax/4]))
	} else {
		b.out = append(b.out, '"')
		b.out = appendEscaped(b.out, prefix)
		b.out = appendEscaped(b.out, name)
		b.out = append(b.out, '"')
	}
	b.out = append(b.out, ':')
	return true
}

func (b *batch) pair(name, value string) {
	b.prefixed("", name, value)
}

func (b *batch) prefixed(prefix, name, value string) {
	if b.name(prefix, name) {
		b.out = appendString(b.out, b.bounded(value, valueMax, name))
	}
}

// share keeps the pairs that write writes, for every record that follows until the next call.
func (b *batch) share(write func()) {
	begin := len(b.out)
	b.pairs = 0
	write()
	b.shared = append(b.shared[:0], b.out[begin:]...)
	b.sharedN, b.out = b.pairs, b.out[:begin]
}

// useShared writes the shared pairs.
func (b *batch) useShared() {
	if b.sharedN == 0 {
		return
	}
	if b.pairs > 0 {
		b.out = append(b.out, ',')
	}
	b.out = append(b.out, b.shared...)
	b.pairs += b.sharedN
}

// bounded returns text, cut between two characters if it has more than max.
func (b *batch) bounded(text string, max int, name string) string {
	if len(text) <= max || utf8.RuneCountInString(text) <= max {
		return text
	}
	at := 0
	for range max {
		_, size := utf8.DecodeRuneInString(text[at:])
		at += size
	}
	b.cut = append(b.cut, name)
	return text[:at]
}

// moment writes a time as RFC 3339 with nine digits; the seconds' text is kept, since records in a row share it.
func (b *batch) moment(seconds int64, nanos int) {
	if seconds != b.second {
		time.Unix(seconds, 0).UTC().AppendFormat(b.clock[:0], "2006-01-02T15:04:05")
		b.second = seconds
	}
	b.out = append(b.out, '"')
	b.out = append(b.out, b.clock[:]...)
	b.out = append(b.out, '.')
	at := len(b.out)
	b.out = append(b.out, "000000000Z\""...)
	for digit := at + 8; nanos > 0; digit-- {
		b.out[digit] = byte('0' + nanos%10)
		nanos /= 10
	}
}

func appendString(out []byte, text string) []byte {
	out = append(out, '"')
	out = appendEscaped(out, text)
	return append(out, '"')
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// appendEscaped appends text as it stands in a JSON string; what is no UTF-8 becomes U+FFFD.
func appendEscaped(out []byte, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\ufffd")
	}
	from, at := 0, 0
	for at < len(text) {
		// Eight at a time: below 0x20, a quotation mark or a backslash sets the high bit of its byte.
		for at+8 <= len(text) {
			word := uint64(text[at]) | uint64(text[at+1])<<8 | uint64(text[at+2])<<16 | uint64(text[at+3])<<24 |
				uint64(text[at+4])<<32 | uint64(text[at+5])<<40 | uint64(text[at+6])<<48 | uint64(text[at+7])<<56
			quote, slash := word^ones*'"', word^ones*'\\'
			if ((word-ones*0x20)&^word|(quote-ones)&^quote|(slash-ones)&^slash)&highs != 0 {
				break
			}
			at += 8
		}
		for end := min(at+8, len(text)); at < end; at++ {
			c := text[at]
			if c >= 0x20 && c != '"' && c != '\\' {
				continue
			}
			out = append(out, text[from:at]...)
			from = at + 1
			switch c {
			case '"', '\\':
				out = append(out, '\\', c)
			case '\n':
				out = append(out, '\\', 'n')
			case '\t':
				out = append(out, '\\', 't')
			case '\r':
				out = append(out, '\\', 'r')
			case '\b':
				out = append(out, '\\', 'b')
			case '\f':
				out = append(out, '\\', 'f')
			default:
				out = append(out, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
			}
		}
	}
	return append(out, text[from:]...)
}

// appendFloat writes a number as JSON does, with a fraction always.
func appendFloat(out []byte, value float64) []byte {
	at := len(out)
	out = strconv.AppendFloat(out, value, 'g', -1, 64)
	if strings.ContainsAny(string(out[at:]), ".eIN") {
		return out
	}
	return append(out, ".0"...)
}
