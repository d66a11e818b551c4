package httpconn

// A chunks finds where a chunked body ends, RFC 9112 §7.1, in pieces as they come. It leaves judging to net/http:
// whatever it does not know for sure is broken. The zero value stands at the body's beginning.
type chunks struct {
	at   chunkPart
	size int64 // of the chunk: so far, or what is left of it
	some bool  // the line is not empty: it has a digit of the size, or some of the trailer
}

type chunkPart uint8

const (
	chunkSize chunkPart = iota
	chunkExtension
	chunkSizeEnd // after the CR
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkTrailerEnd // after the CR
	chunksEnd
	chunksBroken
)

// mostChunk is a size that no message may have; net/http answers it.
const mostChunk = 1 << 40

// scan looks at the next piece. It returns how much of it belongs to the body: all of it, unless at is chunksEnd
// afterwards.
func (c *chunks) scan(p []byte) (n int) {
	for n < len(p) && c.at < chunksEnd {
		if c.at == chunkData {
			k := int(min(c.size, int64(len(p)-n)))
			n += k
			if c.size -= int64(k); c.size == 0 {
				c.at = chunkDataCR
			}
			continue
		}
		c.next(p[n])
		n++
	}
	if c.at == chunksBroken {
		return len(p)
	}
	return n
}

func (c *chunks) next(b byte) {
	follows := func(want byte, then chunkPart) {
		c.at = then
		if b != want {
			c.at = chunksBroken
		}
	}
	switch c.at {
	case chunkSize:
		digit, ok := hex(b)
		switch {
		case ok && c.size < mostChunk:
			c.size, c.some = c.size<<4|digit, true
		case !ok && c.some && b == '\r':
			c.at = chunkSizeEnd
		case !ok && c.some && (b == ';' || b == ' ' || b == '\t'):
			c.at = chunkExtension
		default:
			c.at = chunksBroken
		}
	case chunkExtension:
		switch b {
		case '\r':
			c.at = chunkSizeEnd
		case '\n':
			c.at = chunksBroken
		}
	case chunkSizeEnd:
		c.some = false
		if follows('\n', chunkData); c.size == 0 && c.at == chunkData {
			c.at = chunkTrailer
		}
	case chunkDataCR:
		follows('\r', chunkDataLF)
	case chunkDataLF:
		follows('\n', chunkSize)
	case chunkTrailer:
		switch b {
		case '\r':
			c.at = chunkTrailerEnd
		case '\n':
			c.at = chunksBroken
		default:
			c.some = true
		}
	case chunkTrailerEnd:
		if follows('\n', chunksEnd); c.some && c.at == chunksEnd {
			c.at, c.some = chunkTrailer, false
		}
	}
}

func hex(b byte) (digit int64, ok bool) {
	switch {
	case '0' <= b && b <= '9':
		return int64(b - '0'), true
	case 'a' <= b && b <= 'f':
		return int64(b-'a') + 10, true
	case 'A' <= b && b <= 'F':
		return int64(b-'A') + 10, true
	}
	return 0, false
}
