// Package strictjson reads the JSON of a request body in one way only, and
// says what is wrong with it in words that mean something to a caller.
package strictjson

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// strict reads JSON in one way only: names match exactly and once, nothing
// is unknown, text is UTF-8 (these are the package's defaults but for the
// first option), and base64 has one spelling.
var strict = json.JoinOptions(
	json.RejectUnknownMembers(true),
	json.WithUnmarshalers(json.UnmarshalFromFunc(readBase64)),
)

// Decode reads one JSON object and nothing else into a struct. The error is
// keys.ErrMalformed (or ErrInvalid: too many Items) and names the member. What
// it decodes holds no part of body.
func Decode(body []byte, to any) error {
	first := bytes.TrimLeft(body, " \t\r\n")
	if len(first) == 0 {
		return keys.Errorf(keys.ErrMalformed, "the body is empty; send a JSON object, {} at least")
	}
	if first[0] != '{' {
		return keys.Errorf(keys.ErrMalformed, "the body must be a JSON object")
	}
	if err := json.Unmarshal(body, to, strict); err != nil {
		return explain(body, err)
	}
	// null would pass for a member left out, and in a change it could mean
	// "remove" as well as "leave": it means nothing here.
	if bytes.Contains(body, []byte("null")) {
		return refuseNull(body)
	}
	return nil
}

var (
	errBase64 = errors.New("not standard base64")
	errItems  = errors.New("too many items")
)

// base64Text decodes RFC 4648, 4 with padding and zero trailing bits.
var base64Text = base64.StdEncoding.Strict()

func readBase64(dec *jsontext.Decoder, to *[]byte) error {
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if raw.Kind() != '"' {
		return errBase64
	}
	text := []byte(raw[1 : len(raw)-1])
	if bytes.IndexByte(text, '\\') >= 0 {
		// Escapes are rare, and the only way to a line break, which Go's
		// decoder would skip.
		if text, err = jsontext.AppendUnquote(nil, raw); err != nil || bytes.ContainsAny(text, "\r\n") {
			return errBase64
		}
	}
	out := make([]byte, base64Text.DecodedLen(len(text)))
	n, err := base64Text.Decode(out, text)
	if err != nil {
		return errBase64
	}
	*to = out[:n]
	return nil
}

// Items reads the items of a batch and stops at one too many: a body of
// nothing but "{},{}," would otherwise take thirty times its size.
type Items[T any] []T

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (s *Items[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '[' {
		_ = dec.SkipValue()
		return &json.SemanticError{GoType: reflect.TypeFor[[]T]()}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	*s = Items[T]{}
	for dec.PeekKind() != ']' {
		if len(*s) == api.MaxBatch {
			return errItems
		}
		var item T
		*s = append(*s, item)
		if err := json.UnmarshalDecode(dec, &(*s)[len(*s)-1]); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// explain says what was wrong in words that mean something to a caller.
func explain(body []byte, err error) error {
	malformed := func(format string, args ...any) error { return keys.Errorf(keys.ErrMalformed, format, args...) }
	if errors.Is(err, errItems) {
		return keys.Errorf(keys.ErrInvalid, "the batch has more than %d items", api.MaxBatch)
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		switch {
		case errors.Is(syntax, jsontext.ErrDuplicateName):
			return malformed("%s appears twice", member(syntax.JSONPointer))
		case !utf8.Valid(body):
			return malformed("the body is not valid UTF-8")
		case errors.Is(syntax, io.ErrUnexpectedEOF):
			return malformed("the JSON ends too early")
		case jsontext.NewDecoder(bytes.NewReader(body)).SkipValue() == nil:
			return malformed("there is something behind the JSON object")
		}
		return malformed("the body is not valid JSON at byte %d", syntax.ByteOffset)
	}
	semantic, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		return malformed("the body is not the JSON that this call takes")
	}
	where := member(semantic.JSONPointer)
	switch {
	case errors.Is(semantic, json.ErrUnknownName):
		return malformed("%s is unknown here; names are case-sensitive", where)
	case semantic.GoType == nil:
		return malformed("%s is not what this call takes", where)
	}
	return malformed("%s must be %s", where, expected(semantic.GoType))
}

// member spells a JSON pointer the way people write it: items[3].payload.
func member(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		switch n, err := strconv.Atoi(token); {
		case err == nil && n >= 0 && b.Len() > 0:
			b.WriteString("[" + strconv.Itoa(n) + "]")
		case b.Len() > 0:
			b.WriteString("." + token)
		default:
			b.WriteString(token)
		}
	}
	const most = 100
	text := b.String()
	if len(text) > most {
		text = text[:most] + "..."
	}
	if text == "" {
		return "the body"
	}
	return strconv.QuoteToASCII(text)
}

// expected says in JSON's terms what a Go type is read from.
func expected(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[api.Duration]():
		return "a duration with its unit, such as \"720h\""
	case t == reflect.TypeFor[[]byte]():
		return "standard base64 in a string, with padding and without line breaks"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "an integer"
	case reflect.Uint32:
		return "an integer from 0 to 4294967295"
	case reflect.Uint64:
		return "an integer, not negative"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// refuseNull finds the null in valid JSON, if there is one outside of
// strings.
func refuseNull(body []byte) error {
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return nil // the end: it has been read before
		}
		if token.Kind() == 'n' {
			return keys.Errorf(keys.ErrMalformed, "%s is null; leave it out instead", member(dec.StackPointer()))
		}
	}
}
