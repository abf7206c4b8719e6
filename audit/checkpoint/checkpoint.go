package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint says that the log of an origin had Size records with the tree
// hash Root.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// Text is the body of the note (c2sp.org/tlog-checkpoint).
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// Sign returns the signed note.
func Sign(c Checkpoint, s note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.Text()}, s)
}

// Errors of Open.
var (
	ErrMalformed = errors.New("it is no checkpoint")
	ErrSignature = errors.New("its signature is not valid")
	// ErrUnknownKey: no signature of it is by a known key.
	ErrUnknownKey = errors.New("it is signed by none of the known audit keys")
)

// Open reads a signed note and checks its signatures: at least one must be by
// a known key, and none by a known key may be wrong. signer is the version id
// of the key. Errors: ErrMalformed, ErrSignature, ErrUnknownKey.
func Open(signed []byte, known *Keys) (c Checkpoint, signer string, err error) {
	n, err := note.Open(signed, known)
	var invalid *note.InvalidSignatureError
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &invalid):
		return c, invalid.Name, fmt.Errorf("%w (key %s)", ErrSignature, invalid.Name)
	case errors.As(err, &unverified):
		names := make([]string, len(unverified.Note.UnverifiedSigs))
		for i, s := range unverified.Note.UnverifiedSigs {
			names[i] = s.Name
		}
		return c, "", fmt.Errorf("%w (it names %s)", ErrUnknownKey, strings.Join(names, ", "))
	case err != nil:
		return c, "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, s := range slices.Concat(n.Sigs, n.UnverifiedSigs) { // one note has one spelling
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return c, s.Name, fmt.Errorf("%w (key %s): its base64 is not as it was written", ErrSignature, s.Name)
		}
	}
	c, err = parse(n.Text)
	return c, n.Sigs[0].Name, err
}

// Peek reads a signed note without checking who signed it.
func Peek(signed []byte) (Checkpoint, error) {
	text, _, ok := strings.Cut(string(signed), "\n\n")
	if !ok {
		return Checkpoint{}, ErrMalformed
	}
	return parse(text + "\n")
}

// parse reads the body. Extension lines are allowed and have no meaning here.
func parse(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" {
		return Checkpoint{}, ErrMalformed
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("%w: the second line is no size", ErrMalformed)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("%w: the third line is no hash", ErrMalformed)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}, nil
}
