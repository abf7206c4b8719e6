package strictyaml

import "testing"

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"dir", "listen", "level", "warn", "tls"}
	for got, want := range map[string]string{
		"dri": "dir", "lisen": "listen", "Listen": "listen", "levl": "level", "warning": "warn", "tlss": "tls",
		"x": "", "frobnicate": "", "": "", "lost": "",
	} {
		if guess := Nearest(got, words); guess != want {
			t.Errorf("Nearest(%q) = %q, want %q", got, guess, want)
		}
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestOneOf(t *testing.T) {
	t.Parallel()
	for want, words := range map[string][]string{`"a", "b" or "c"`: {"a", "b", "c"}, `"a"`: {"a"}, "": nil} {
		if got := OneOf(words); got != want {
			t.Errorf("OneOf(%q) = %s, want %s", words, got, want)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	l := Lines{"a": 1, "a.b[0]": 3}
	for path, want := range map[string]int{"a": 1, "a.b": 1, "a.b[0]": 3, "a.b[0].c": 3, "a.b[1].c": 1, "z": 0, "": 0} {
		if got := l.Of(path); got != want {
			t.Errorf("Of(%q) = %d, want %d", path, got, want)
		}
	}
}
