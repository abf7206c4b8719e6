package spill

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"time"
	"unicode/utf8"

	"keyhole/keys"
)

// format is in the first line.
const format = 1

// head is the first line.
type head struct {
	Format int    `json:"keyhole_usage_spill"`
	Node   string `json:"node"`
}

// row is keys.Usage in the file: what is counted beyond what the store holds.
type row struct {
	Key       string `json:"k"`
	Version   uint32 `json:"v"`
	Principal string `json:"p,omitzero"`
	Raw       []byte `json:"r,omitzero"` // the principal, where it is not UTF-8 and JSON would change it
	Applied   uint64 `json:"a,omitzero"`
	Processed uint64 `json:"d,omitzero"`
	Bytes     uint64 `json:"b,omitzero"`
	LastUse   int64  `json:"t,omitzero"` // microseconds since 1970
}

// body is every other line.
type body struct {
	Rows []row `json:"rows"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumLen = 2 * crc32.Size

// appendLine adds a line that holds v.
func appendLine(b []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	b = append(b, sum(text)...)
	b = append(b, ' ')
	b = append(b, text...)
	return append(b, '\n'), nil
}

func sum(text []byte) string {
	n := crc32.Checksum(text, castagnoli)
	return hex.EncodeToString([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// errLine says that a line is not as it was written.
var errLine = errors.New("the line is not as it was written")

// readLine reads into v what a line without its end holds.
func readLine(line []byte, v any) error {
	if len(line) <= sumLen || line[sumLen] != ' ' || string(line[:sumLen]) != sum(line[sumLen+1:]) {
		return errLine
	}
	dec := json.NewDecoder(bytes.NewReader(line[sumLen+1:]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return errLine
	}
	return nil
}

func rowOf(u keys.Usage) row {
	r := row{Key: u.Key, Version: u.Version, Principal: u.Principal, Applied: u.Applied, Processed: u.Processed, Bytes: u.Bytes}
	if !utf8.ValidString(u.Principal) {
		r.Principal, r.Raw = "", []byte(u.Principal)
	}
	if !u.LastUse.IsZero() {
		r.LastUse = u.LastUse.UnixMicro()
	}
	return r
}

func (r row) usage() keys.Usage {
	u := keys.Usage{Key: r.Key, Version: r.Version, Principal: r.Principal + string(r.Raw), Applied: r.Applied, Processed: r.Processed, Bytes: r.Bytes}
	if r.LastUse != 0 {
		u.LastUse = time.UnixMicro(r.LastUse).UTC()
	}
	return u
}

// unwritten is how a part of a file looks that a crash kept from the disk: a
// sector at least.
var unwritten = make([]byte, 512)

// parse reads a file. cut: its end was torn off by a crash. bad is the number
// of the line that is not as it was written, from 1; 0: all are.
func parse(data []byte) (h head, rows []keys.Usage, cut bool, bad int) {
	for n := 1; len(data) > 0; n++ {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		data = rest
		var b body
		var err error
		if n == 1 {
			if err = readLine(line, &h); err == nil && h.Format != format {
				err = errLine
			}
		} else {
			err = readLine(line, &b)
		}
		switch {
		case !ended: // also where it reads well: it may be the beginning of a longer one
			return h, rows, true, 0
		case err != nil && len(rest) == 0 && bytes.Contains(line, unwritten):
			// Its end got to the disk, and something before it did not.
			return h, rows, true, 0
		case err != nil:
			return h, rows, false, n
		}
		for _, r := range b.Rows {
			rows = append(rows, r.usage())
		}
	}
	return h, rows, false, 0
}
