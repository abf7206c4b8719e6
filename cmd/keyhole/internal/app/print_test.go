package app

import (
	"bytes"
	"encoding/json"
	"testing"
)

// What comes from elsewhere cannot steer the terminal in JSON either: neither
// by C1 controls (U+009B begins a sequence, like ESC [) nor by overrides of
// the direction of writing.
func TestPrintJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain <&> ü €":      `"plain <&> ü €"`,
		"\x1b[2J\x7f":        `"\u001b[2J\u007f"`,
		"\u009b31m":          `"\u009b31m"`,
		"\u202egnp":          `"\u202egnp"`,
		"\U000e0041 \u2028":  `"\udb40\udc41 \u2028"`,
		"a\nb\\u009b \"q\"":  `"a\nb\\u009b \"q\""`,
		"\u00a0 no-break \t": `"\u00a0 no-break \t"`,
	} {
		var out bytes.Buffer
		if err := PrintJSON(&out, in); err != nil || out.String() != want+"\n" {
			t.Errorf("%q is printed as %q, %v; want %q", in, out.String(), err, want)
		}
		var back string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != in {
			t.Errorf("%q is read as %q, %v", in, back, err)
		}
	}
	var out bytes.Buffer
	if err := PrintJSON(&out, map[string]int{"a": 1}); err != nil || out.String() != "{\n  \"a\": 1\n}\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
