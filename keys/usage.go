package keys

import "time"

// Usage is what one principal did with one version. Counters that were
// reserved ahead and not given back, after a crash, count as used: the true
// figures are never higher.
type Usage struct {
	Key       string
	Version   uint32
	Principal string // "" in a sum over all
	Applied   uint64 // operations that sign, MAC or encrypt
	Processed uint64 // operations that verify or decrypt
	Bytes     uint64 // of payload, both ways
	LastUse   time.Time
}

// Add adds what v counts to u.
func (u *Usage) Add(v Usage) {
	u.Applied += v.Applied
	u.Processed += v.Processed
	u.Bytes += v.Bytes
	if v.LastUse.After(u.LastUse) {
		u.LastUse = v.LastUse
	}
}
