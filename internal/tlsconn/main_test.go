package tlsconn

import (
	"os"
	"testing"

	"picloud/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }
