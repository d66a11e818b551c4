package utf

import "testing"

func TestUTF16IsToldByItsBeginning(t *testing.T) {
	for p, want := range map[string]bool{
		"\xff\xfe": true, "\xfe\xff": true, "\xff\xfe{\x00": true, "{\x00}\x00": true, "\x00{\x00}": true,
		"": false, "{": false, "\x00": false, "{}": false, "\x00\x00": false, "\ufeff{}": false, "\xff": false, "é": false,
	} {
		if got := Is16([]byte(p)); got != want {
			t.Errorf("%q: %t", p, got)
		}
	}
}
