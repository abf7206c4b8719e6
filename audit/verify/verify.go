package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/segment"
)

// Kind says what is wrong.
type Kind string

// The kinds.
const (
	Altered       Kind = "altered"        // a line is not the one that was signed for
	Missing       Kind = "missing"        // one or more lines are gone
	Inserted      Kind = "inserted"       // a line is there that was not signed for
	Reordered     Kind = "reordered"      // two lines have changed places
	Truncated     Kind = "truncated"      // a checkpoint vouches for more lines than there are
	Rewritten     Kind = "rewritten"      // the tree is not the one of a checkpoint, and the stored hashes do not tell which line it is
	BadSignature  Kind = "bad-signature"  // of a checkpoint
	UnknownKey    Kind = "unknown-key"    // a checkpoint is by none of the given keys
	BadCheckpoint Kind = "bad-checkpoint" // it is malformed, of another log, or goes back
	BadHashes     Kind = "bad-hashes"     // the stored hashes are not those of the lines, which are good
)

// Finding is one thing that is wrong.
type Finding struct {
	Kind Kind   `json:"kind"`
	Seq  uint64 `json:"seq"`  // of the first record concerned
	File string `json:"file"` // where it is, or would be
	Line int    `json:"line,omitempty"`
	Text string `json:"text"` // for people
}

// Options say what to check.
type Options struct {
	Dir  string
	Keys *checkpoint.Keys
	// Since are signed checkpoints that were kept elsewhere.
	Since [][]byte
	// Progress is told from time to time how many bytes of lines were read,
	// uncompressed. It may be nil.
	Progress func(bytes int64)
}

// Result is what was found. The log is good if Findings is empty.
type Result struct {
	Origin      string    `json:"origin"`
	Records     uint64    `json:"records"`     // that the log has, archived ones included
	Archived    uint64    `json:"archived"`    // of them, those whose lines are not here: only their hashes were checked
	Vouched     uint64    `json:"vouched"`     // of them, those that a checkpoint vouches for and that agree with it
	Checkpoints int       `json:"checkpoints"` // with a valid signature by a known key
	Bytes       int64     `json:"bytes"`       // of lines read
	Torn        bool      `json:"torn"`        // the last line has no end: the log is being written, or there was a crash
	Findings    []Finding `json:"findings"`
}

// Log checks a log. The error is about reading it; what is wrong with it is
// in the result. It needs memory for a line and an edge of the tree.
func Log(ctx context.Context, o Options) (*Result, error) {
	files, err := segment.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no audit log in %s", o.Dir)
	}
	v := &verifier{Options: o, files: files, result: &Result{Findings: []Finding{}}}
	v.hashes, err = merkle.ReadFile(filepath.Join(o.Dir, "hashes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	if v.hashes != nil {
		defer v.hashes.Close()
	}
	if err := v.openSince(); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(o.Dir, "checkpoints"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.nextNote = func() (*vouched, error) { return nil, nil }
	case err != nil:
		return nil, fmt.Errorf("reading the audit log: %w", err)
	default:
		defer f.Close()
		next, stop := iter.Pull2(checkpoint.Notes(f, nil))
		defer stop()
		v.nextNote = v.notes(f.Name(), next)
	}
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	return v.result, nil
}

// vouched is a checkpoint to compare with.
type vouched struct {
	checkpoint.Checkpoint
	where string // "FILE:LINE", or how the caller calls it
	by    string
}

type verifier struct {
	Options
	files    []segment.File
	hashes   *merkle.File // nil: there is no file
	result   *Result
	since    []vouched // kept elsewhere, ascending
	nextNote func() (*vouched, error)
	ahead    *vouched // the next one of the log's own; nil: there is none
	tree     merkle.Tree
	good     merkle.Tree // as of the last checkpoint that agreed
	fatal    bool        // the lines are not to be believed from here on
}

func (v *verifier) found(f Finding) { v.result.Findings = append(v.result.Findings, f) }

// notes returns the log's own checkpoints one by one, without those that are
// not to be believed, of which it tells.
func (v *verifier) notes(path string, next func() (checkpoint.Numbered, error, bool)) func() (*vouched, error) {
	last := int64(0)
	return func() (*vouched, error) {
		for {
			n, err, ok := next()
			switch {
			case !ok:
				return nil, nil
			case err != nil:
				v.found(Finding{Kind: BadCheckpoint, Seq: uint64(last), File: path, Text: fmt.Sprintf("%s: %v", path, err)})
				return nil, nil
			}
			where := fmt.Sprintf("%s:%d", path, n.Line)
			c, err := v.open(n.Signed, where, path, n.Line)
			switch {
			case err != nil:
				continue
			case c.Size < last:
				v.found(Finding{Kind: BadCheckpoint, Seq: uint64(c.Size), File: path, Line: n.Line,
					Text: fmt.Sprintf("the checkpoint at %s vouches for %d records, one in front of it for %d: checkpoints never go back", where, c.Size, last)})
				continue
			}
			last = c.Size
			v.result.Checkpoints++
			return c, nil
		}
	}
}

var errFound = errors.New("told already")

// open checks one signed checkpoint, and that it is of this log.
func (v *verifier) open(signed []byte, where, file string, line int) (*vouched, error) {
	c, by, err := checkpoint.Open(signed, v.Keys)
	f := Finding{Seq: uint64(max(c.Size, 0)), File: file, Line: line}
	switch {
	case errors.Is(err, checkpoint.ErrSignature):
		f.Kind = BadSignature
	case errors.Is(err, checkpoint.ErrUnknownKey):
		f.Kind = UnknownKey
	case err != nil:
		f.Kind = BadCheckpoint
	case v.result.Origin == "":
		v.result.Origin = c.Origin
		fallthrough
	case v.result.Origin == c.Origin:
		return &vouched{c, where, by}, nil
	default:
		f.Kind, err = BadCheckpoint, fmt.Errorf("it is of the log %q, not %q", c.Origin, v.result.Origin)
	}
	if peeked, perr := checkpoint.Peek(signed); perr == nil {
		f.Seq = uint64(peeked.Size)
	}
	f.Text = fmt.Sprintf("the checkpoint at %s: %v", where, err)
	v.found(f)
	return nil, errFound
}

func (v *verifier) openSince() error {
	for i, signed := range v.Since {
		where := fmt.Sprintf("the checkpoint that was kept elsewhere (number %d)", i+1)
		c, err := v.open(signed, where, where, 0)
		if err != nil {
			continue
		}
		at := len(v.since)
		for at > 0 && v.since[at-1].Size > c.Size {
			at--
		}
		v.since = append(v.since[:at:at], append([]vouched{*c}, v.since[at:]...)...)
	}
	return nil
}

// run reads the lines once.
func (v *verifier) run(ctx context.Context) error {
	if err := v.begin(); err != nil || v.fatal {
		return err
	}
	var err error
	if v.ahead, err = v.nextNote(); err != nil {
		return err
	}
	if err := v.archived(); err != nil || v.fatal {
		return err
	}
	var buf []byte
	told := int64(0)
	for line, err := range segment.Lines(v.files) {
		if errors.Is(err, segment.ErrTorn) {
			v.result.Torn = true
			break
		}
		if err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next := uint64(v.tree.Size())
		if seq, ok := segment.Seq(line.Bytes); !ok || seq != next {
			return v.diagnose(next, line, seq, ok)
		}
		buf = v.tree.Append(buf[:0], merkle.LeafHash(line.Bytes))
		if v.result.Bytes += int64(len(line.Bytes)); v.Progress != nil && v.result.Bytes-told >= 1<<20 {
			told = v.result.Bytes
			v.Progress(told)
		}
		if err := v.compare(); err != nil || v.fatal {
			return err
		}
		if v.unvouched() { // nobody vouches for it: it must at least be a record
			if _, err := audit.ParseLine(line.Bytes); err != nil {
				v.found(Finding{Kind: Altered, Seq: next, File: line.File, Line: line.Number, Text: fmt.Sprintf("%s:%d: %v", line.File, line.Number, err)})
				return nil
			}
		}
	}
	v.result.Records = uint64(v.tree.Size())
	return v.end()
}

// begin starts the tree where the lines begin.
func (v *verifier) begin() error {
	first, ok, err := v.files[0].FirstSeq()
	if err != nil {
		var line *segment.LineError
		if !errors.As(err, &line) {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		v.fatal = true
		v.found(Finding{Kind: Altered, File: line.File, Line: line.Line, Text: err.Error()})
		return nil
	}
	if !ok || v.files[0].Number == 1 {
		return nil // a first segment that does not begin with 0 is told as missing lines
	}
	if v.hashes == nil {
		return fmt.Errorf("the first segments of %s were archived, and there is no file of hashes to go on from; put it or all segments there", v.Dir)
	}
	if v.tree, err = merkle.Restore(int64(first), v.hashes); err != nil {
		return fmt.Errorf("reading the hashes of the audit log: %w", err)
	}
	v.good, v.result.Archived = v.tree, first
	return nil
}

// archived compares the checkpoints of lines that are not here with the
// stored hashes. That says nothing yet about the hashes themselves: the next
// checkpoint does, since its tree goes on from them.
func (v *verifier) archived() error {
	for v.ahead != nil && uint64(v.ahead.Size) < v.result.Archived || len(v.since) > 0 && uint64(v.since[0].Size) < v.result.Archived {
		c, err := v.take(int64(v.result.Archived) - 1)
		if err != nil {
			return err
		}
		root, err := tlog.TreeHash(c.Size, v.hashes)
		if err != nil {
			return fmt.Errorf("reading the hashes of the audit log: %w", err)
		}
		if root != c.Root {
			v.fatal = true
			v.found(Finding{Kind: Rewritten, Seq: uint64(v.good.Size()), File: v.files[0].Path,
				Text: fmt.Sprintf("the stored hashes of the archived records are not those that %s (%d records) vouches for", c.where, c.Size)})
			return nil
		}
	}
	return v.compare()
}

// take returns the next checkpoint of at most size, of the log's own or kept
// elsewhere.
func (v *verifier) take(size int64) (*vouched, error) {
	if len(v.since) > 0 && v.since[0].Size <= size && (v.ahead == nil || v.since[0].Size <= v.ahead.Size) {
		c := v.since[0]
		v.since = v.since[1:]
		return &c, nil
	}
	c := v.ahead
	var err error
	v.ahead, err = v.nextNote()
	return c, err
}

func (v *verifier) unvouched() bool { return v.ahead == nil && len(v.since) == 0 }

// compare holds the tree to every checkpoint of its size.
func (v *verifier) compare() error {
	for {
		size := v.tree.Size()
		if !(v.ahead != nil && v.ahead.Size <= size) && !(len(v.since) > 0 && v.since[0].Size <= size) {
			return nil
		}
		c, err := v.take(size)
		if err != nil {
			return err
		}
		if c.Size < size {
			continue // of the empty log, before the first line
		}
		if v.tree.Root() != c.Root {
			return v.locate(c)
		}
		v.good = v.tree
		v.result.Vouched = uint64(size)
	}
}

// end looks at what comes behind the last line.
func (v *verifier) end() error {
	var most *vouched
	for v.ahead != nil || len(v.since) > 0 {
		c, err := v.take(1<<63 - 1)
		if err != nil {
			return err
		}
		if c != nil && (most == nil || c.Size > most.Size) {
			most = c
		}
	}
	if most != nil && most.Size > v.tree.Size() {
		last := v.files[len(v.files)-1].Path
		v.found(Finding{Kind: Truncated, Seq: uint64(v.tree.Size()), File: last,
			Text: fmt.Sprintf("the log ends with %d records, and %s, signed by %s, vouches for %d: what came from record %d on was cut off",
				v.tree.Size(), most.where, most.by, most.Size, v.tree.Size())})
		return nil
	}
	return v.checkHashes()
}

// checkHashes compares the stored hashes with the lines, which are good.
func (v *verifier) checkHashes() error {
	if v.hashes == nil || v.tree.Size() == 0 || v.result.Torn {
		return nil
	}
	root, err := tlog.TreeHash(v.good.Size(), v.hashes)
	switch {
	case errors.Is(err, merkle.ErrShort):
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the hashes of the audit log: %w", err)
	case err == nil && root == v.good.Root():
		return nil
	}
	v.found(Finding{Kind: BadHashes, File: filepath.Join(v.Dir, "hashes"),
		Text: "the lines are good, and the stored hashes are not theirs; the gateway makes them anew at its next start"})
	return nil
}
