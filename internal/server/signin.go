package server

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"picloud/internal/wire"
)

// A link that signs a browser in carries a code in place of the key, since links are remembered and passed on.
const (
	codeLife      = 5 * time.Minute
	maxCodes      = 16      // that are good at the same time
	codeBodyBytes = 1 << 10 // of a request with a code
)

// codes are the sign-in codes that are still good, as hashes. They end with the process.
type codes struct {
	mu   sync.Mutex
	list []issuedCode // the oldest first
}

type issuedCode struct {
	sum  [sha256.Size]byte
	ends time.Time
}

// issue makes a code, of 130 random bits. Past maxCodes the oldest one is good no more.
func (c *codes) issue(now time.Time) string {
	code := rand.Text()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(now)
	if len(c.list) == maxCodes {
		c.list = slices.Delete(c.list, 0, 1)
	}
	c.list = append(c.list, issuedCode{sha256.Sum256([]byte(code)), now.Add(codeLife)})
	return code
}

// take uses a code up, and reports whether it was good.
func (c *codes) take(code string, now time.Time) (taken issuedCode, ok bool) {
	sum := sha256.Sum256([]byte(code))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(now)
	c.list = slices.DeleteFunc(c.list, func(known issuedCode) bool {
		if subtle.ConstantTimeCompare(sum[:], known.sum[:]) != 1 {
			return false
		}
		taken, ok = known, true
		return true
	})
	return taken, ok
}

// giveBack makes a code good again that was taken, as long as there is room.
func (c *codes) giveBack(taken issuedCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) < maxCodes {
		c.list = slices.Insert(c.list, 0, taken)
	}
}

// expire forgets the codes whose time is over. mu must be held.
func (c *codes) expire(now time.Time) {
	c.list = slices.DeleteFunc(c.list, func(known issuedCode) bool { return !now.Before(known.ends) })
}

// signInCode makes a code for who has the key, or is on the local socket.
func (s *Server) signInCode(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(w, r) {
		return
	}
	answerOne(w, http.StatusCreated, struct {
		Code    string `json:"code"`
		Seconds int    `json:"expires_in_seconds"`
	}{s.codes.issue(time.Now()), int(codeLife.Seconds())})
}

// signIn exchanges a code for the key.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	// Only the dashboard has a use for the answer: a page from elsewhere is not to read it.
	w.Header().Del("Access-Control-Allow-Origin")
	code, ok := readCode(w, r)
	if !ok || !s.codeAdmitted(w, r, code) {
		return
	}
	answerOne(w, http.StatusOK, struct {
		Key string `json:"key"`
	}{s.cfg.Key})
}

// readCode returns the code in a request's body, or answers the request.
func readCode(w http.ResponseWriter, r *http.Request) (string, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, codeBodyBytes))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		tooLarge(w)
		return "", false
	case err != nil:
		refuse(w, http.StatusBadRequest, "body could not be read")
		return "", false
	}
	var asked struct{ Code string }
	switch body, err := wire.Text(body); {
	case err != nil:
		refuse(w, http.StatusBadRequest, err.Error())
	case json.Unmarshal(body, &asked) != nil || asked.Code == "":
		refuse(w, http.StatusBadRequest, `body must be one JSON object with a code: {"code": "…"}`)
	default:
		return asked.Code, true
	}
	return "", false
}

// codeAdmitted answers a request whose code is not good, and reports whether it is.
func (s *Server) codeAdmitted(w http.ResponseWriter, r *http.Request, code string) bool {
	v := s.judgeCode(r, code, time.Now())
	switch v.status {
	case 0:
		return true
	case http.StatusUnauthorized:
		v.reason = "this sign-in code is wrong, used or out of date: picloud open makes a new one"
	}
	v.answer(w)
	return false
}

// judgeCode has the guard judge a code as it judges keys: a good one stands for the key, any other is a wrong key. What
// an address sends that has to wait uses no code up.
func (s *Server) judgeCode(r *http.Request, code string, now time.Time) verdict {
	taken, good := s.codes.take(code, now)
	if isLocal(r) {
		if good {
			return verdict{}
		}
		return verdict{status: http.StatusUnauthorized}
	}
	key := "\x00" + code // no key has a NUL in it
	if good {
		key = s.cfg.Key
	}
	v := s.guard.check(key, origin(r), now)
	if good && v.status != 0 {
		s.codes.giveBack(taken)
	}
	return v
}

// answerOne sends JSON that is for one reader, and only true now.
func answerOne(w http.ResponseWriter, status int, body any) {
	unstored(w.Header(), "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
