package main

import (
	"strings"
	"testing"
)

func TestLocalNameThatNobodyHasSaysWhatToDo(t *testing.T) {
	j := call(t, map[string]string{"API_KEY": key}, "info", "--url", "picloud-nobody-has-this-name.local")
	if _, said := j.ends(1); !strings.Contains(said, "multicast DNS") || !strings.Contains(said, "IP address") ||
		strings.Count(said, "\n") != 1 {
		t.Errorf("said %q", said)
	}
}
