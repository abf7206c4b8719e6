package audit

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of what one record can put into the log.
const (
	maxString = 1024 // bytes of one string
	maxList   = 64   // entries of Policies and of Details
	more      = "..."
)

// timeFormat has a fixed width: lines sort by time as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// appendHead begins the line of a record: all that is known only when its
// place in the log is.
func appendHead(b []byte, seq uint64, t time.Time) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"time":`...)
	return appendTime(b, t)
}

// appendBody goes on with the rest of the line, up to and with its newline.
// The same record always gives the same bytes.
func appendBody(b []byte, node string, r *Record) []byte {
	b = append(b, `,"node":`...)
	b = appendString(b, node)
	b = appendText(b, `,"request_id":`, r.RequestID)
	b = appendText(b, `,"principal":`, r.Principal)
	b = appendText(b, `,"auth_method":`, r.AuthMethod)
	b = appendText(b, `,"source":`, r.Source)
	b = append(b, `,"action":`...)
	b = appendString(b, r.Action)
	b = appendText(b, `,"key":`, r.Key)
	b = appendNumber(b, `,"version":`, int64(r.Version))
	b = appendText(b, `,"kid":`, r.KeyID)
	b = appendText(b, `,"algorithm":`, r.Algorithm)
	b = appendText(b, `,"purpose":`, r.Purpose)
	b = appendList(b, `,"policies":`, r.Policies)
	b = append(b, `,"outcome":`...)
	b = appendString(b, r.Outcome)
	b = appendText(b, `,"reason":`, r.Reason)
	b = appendNumber(b, `,"size":`, r.Size)
	b = appendNumber(b, `,"duration_ns":`, int64(r.Duration))
	b = appendText(b, `,"initiator":`, r.Initiator)
	b = appendText(b, `,"rotation":`, r.Rotation)
	b = appendNumber(b, `,"from_version":`, int64(r.FromVersion))
	b = appendNumber(b, `,"to_version":`, int64(r.ToVersion))
	if !r.StartedAt.IsZero() {
		b = appendTime(append(b, `,"started_at":`...), r.StartedAt)
	}
	if !r.CompletedAt.IsZero() {
		b = appendTime(append(b, `,"completed_at":`...), r.CompletedAt)
	}
	if r.Intent != nil {
		b = strconv.AppendUint(append(b, `,"intent":`...), *r.Intent, 10)
	}
	b = appendMap(b, `,"details":`, r.Details)
	return append(b, "}\n"...)
}

// appendText appends a member unless it is empty; so do the others.
func appendText(b []byte, member, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, member...), s)
}

func appendNumber(b []byte, member string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, member...), n, 10)
}

func appendList(b []byte, member string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(append(b, member...), '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if i == maxList {
			b = appendString(b, more)
			break
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendMap(b []byte, member string, m map[string]string) []byte {
	if len(m) == 0 {
		return b
	}
	var space [16]string
	names := slices.AppendSeq(space[:0], maps.Keys(m))
	for _, k := range names {
		if clean(k) != k {
			// Two names may become one: settle that in a map of its own.
			slices.Sort(names)
			cleaned := make(map[string]string, len(m))
			for _, k := range names {
				cleaned[clean(k)] = m[k]
			}
			return appendMap(b, member, cleaned)
		}
	}
	slices.Sort(names)
	b = append(append(b, member...), '{')
	for i, k := range names {
		value := m[k]
		if i == maxList {
			if _, taken := m[more]; taken {
				break
			}
			k, value = more, more
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(appendString(b, k), ':'), value)
		if i == maxList {
			break
		}
	}
	return append(b, '}')
}

var (
	firstTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTime  = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
)

// appendTime writes what RFC 3339 can hold, years 1 to 9999.
func appendTime(b []byte, t time.Time) []byte {
	switch {
	case t.Before(firstTime):
		t = firstTime
	case t.After(lastTime):
		t = lastTime
	}
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, timeFormat)
	return append(b, '"')
}

// clean brings s within maxString bytes of UTF-8.
func clean(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	if len(s) <= maxString {
		return s
	}
	n := maxString - len(more)
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + more
}

// appendString writes a JSON string. Besides what JSON asks for, everything
// is escaped that is not printable: what a caller has sent must not steer
// the terminal of whoever reads the log.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	s = clean(s)
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
			if strconv.IsPrint(r) {
				i += size
				continue
			}
		}
		b = append(b, s[done:i]...)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', c)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			for _, u := range []rune{hi, lo} {
				b = append(b, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
			}
		default:
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
		i += size
		done = i
	}
	return append(append(b, s[done:]...), '"')
}
