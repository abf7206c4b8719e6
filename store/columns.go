package store

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"keyhole/keys"
)

// stamp is a time in the database: microseconds since 1970, NULL for the
// zero time.
type stamp time.Time

// Value implements driver.Valuer.
func (s stamp) Value() (driver.Value, error) {
	if time.Time(s).IsZero() {
		return nil, nil
	}
	return time.Time(s).UnixMicro(), nil
}

// Scan implements sql.Scanner.
func (s *stamp) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*s = stamp{}
	case int64:
		*s = stamp(time.UnixMicro(v).UTC())
	default:
		return fmt.Errorf("a time is stored as %T", v)
	}
	return nil
}

// object is a value in the database as JSON.
type object struct{ of any }

// Value implements driver.Valuer.
func (o object) Value() (driver.Value, error) {
	b, err := json.Marshal(o.of)
	return string(b), err
}

// Scan implements sql.Scanner.
func (o object) Scan(v any) error {
	s, ok := v.(string)
	if !ok || s == "null" { // Value writes none
		return fmt.Errorf("JSON is stored as %T, %.4q", v, s)
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	if err := d.Decode(o.of); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something is behind the JSON")
	}
	return nil
}

// tags are a key's tags in the database: a JSON object.
type tags map[string]string

// Value implements driver.Valuer.
func (t tags) Value() (driver.Value, error) {
	if len(t) == 0 {
		return "{}", nil
	}
	return object{map[string]string(t)}.Value()
}

// Scan implements sql.Scanner.
func (t *tags) Scan(v any) error {
	m := map[string]string{}
	if err := (object{&m}).Scan(v); err != nil {
		return err
	}
	*t = nil
	if len(m) > 0 {
		*t = m
	}
	return nil
}

// list is a list of strings in the database: a JSON array.
type list []string

// Value implements driver.Valuer.
func (l list) Value() (driver.Value, error) {
	if len(l) == 0 {
		return "[]", nil
	}
	return object{[]string(l)}.Value()
}

// Scan implements sql.Scanner.
func (l *list) Scan(v any) error {
	var all []string
	if err := (object{&all}).Scan(v); err != nil {
		return err
	}
	*l = nil
	if len(all) > 0 {
		*l = all
	}
	return nil
}

// acksJSON and the next two are how a policy and a plan are stored.
// Durations are nanoseconds.
type acksJSON struct {
	Require     keys.AckRequirement `json:"require,omitempty"`
	Quorum      int                 `json:"quorum,omitempty"`
	Timeout     time.Duration       `json:"timeout,omitempty"`
	OnTimeout   keys.OnTimeout      `json:"on_timeout,omitempty"`
	AbsentAfter time.Duration       `json:"absent_after,omitempty"`
}

type policyJSON struct {
	Period        time.Duration     `json:"period,omitempty"`
	Schedule      string            `json:"schedule,omitempty"`
	MaxOperations uint64            `json:"max_operations,omitempty"`
	MaxBytes      uint64            `json:"max_bytes,omitempty"`
	Announce      time.Duration     `json:"announce,omitempty"`
	Acks          acksJSON          `json:"acks,omitzero"`
	Overlap       time.Duration     `json:"overlap,omitempty"`
	AfterOverlap  keys.AfterOverlap `json:"after_overlap,omitempty"`
	DestroyDelay  time.Duration     `json:"destroy_delay,omitempty"`
}

type planJSON struct {
	Announce time.Duration `json:"announce,omitempty"`
	Acks     acksJSON      `json:"acks,omitzero"`
}

func encodePolicy(p keys.Policy) policyJSON {
	return policyJSON{
		Period: p.Period, Schedule: p.Schedule, MaxOperations: p.MaxOperations, MaxBytes: p.MaxBytes, Announce: p.Announce,
		Acks: acksJSON(p.Acks), Overlap: p.Overlap, AfterOverlap: p.AfterOverlap, DestroyDelay: p.DestroyDelay,
	}
}

func (p policyJSON) decode() keys.Policy {
	return keys.Policy{
		Period: p.Period, Schedule: p.Schedule, MaxOperations: p.MaxOperations, MaxBytes: p.MaxBytes, Announce: p.Announce,
		Acks: keys.Acks(p.Acks), Overlap: p.Overlap, AfterOverlap: p.AfterOverlap, DestroyDelay: p.DestroyDelay,
	}
}
