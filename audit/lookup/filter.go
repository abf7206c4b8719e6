package lookup

import (
	"bytes"
	"time"

	"keyhole/audit"
)

// Filter says which records are meant. Empty members match everything.
type Filter struct {
	Key, KeyID, Principal, Action, Outcome, RequestID string

	Since, Until time.Time // from Since on, and before Until
}

func (f *Filter) members() [6]struct{ name, want string } {
	return [6]struct{ name, want string }{
		{"key", f.Key}, {"kid", f.KeyID}, {"principal", f.Principal}, {"action", f.Action}, {"outcome", f.Outcome}, {"request_id", f.RequestID},
	}
}

// Matches reports whether a record is meant.
func (f *Filter) Matches(r *audit.Record) bool {
	for i, got := range [6]string{r.Key, r.KeyID, r.Principal, r.Action, r.Outcome, r.RequestID} {
		if want := f.members()[i].want; want != "" && want != got {
			return false
		}
	}
	return !r.Time.Before(f.Since) && (f.Until.IsZero() || r.Time.Before(f.Until))
}

// Sieve returns a function that reports whether a line may be of a record
// that is meant. It reads no JSON, and so is fast.
func (f *Filter) Sieve() func(line []byte) bool {
	var parts [][]byte
	for _, m := range f.members() {
		if m.want != "" && plain(m.want) {
			parts = append(parts, []byte(`"`+m.name+`":"`+m.want+`"`))
		}
	}
	return func(line []byte) bool {
		for _, part := range parts {
			if !bytes.Contains(line, part) {
				return false
			}
		}
		return true
	}
}

// plain reports whether s is written in the log as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return len(s) < 512 // longer ones may have been cut
}
