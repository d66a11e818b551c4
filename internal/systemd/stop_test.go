package systemd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// newBus is a message bus on which systemd has these answers, by object and property.
func newBus(t *testing.T, answers map[string]any) {
	t.Helper()
	l := listenAsBus(t)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if err := serveBus(c, answers); err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

func listenAsBus(t *testing.T) net.Listener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	return l
}

func serveBus(c net.Conn, answers map[string]any) error {
	r := bufio.NewReader(c)
	for line := ""; line != "BEGIN\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			return err
		}
		answer := ""
		switch line = strings.TrimPrefix(line, "\x00"); {
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "OK 1234deadbeef\r\n"
		case strings.HasPrefix(line, "AUTH"):
			answer = "REJECTED EXTERNAL\r\n"
		case strings.HasPrefix(line, "NEGOTIATE_UNIX_FD"):
			answer = "ERROR\r\n"
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return err
		}
	}
	for serial := uint32(1); ; serial++ {
		call, err := dbus.DecodeMessage(r)
		if err != nil {
			return err
		}
		question := string(call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
		member := call.Headers[dbus.FieldMember].Value().(string)
		if member == "Get" {
			question += " " + call.Body[0].(string) + "." + call.Body[1].(string)
		} else {
			question += " " + member
		}
		answer, ok := answers[question]
		if several, isList := answer.([]any); isList { // one after the other
			answer, answers[question] = several[0], several[1:]
		}
		if member == "Hello" {
			answer, ok = ":1.1", true
		}
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		}}
		if !ok {
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.UnknownObject")
			answer = "no answer to " + question
		} else if member == "Get" {
			answer = dbus.MakeVariant(answer)
		}
		reply.Body = []any{answer}
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(answer))
		var b bytes.Buffer
		if err := reply.EncodeTo(&b, binary.LittleEndian); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(b.Bytes()[8:], serial)
		if _, err := c.Write(b.Bytes()); err != nil {
			return err
		}
	}
}

func TestRestartIsToldFromStop(t *testing.T) {
	const unit, job = dbus.ObjectPath("/org/freedesktop/systemd1/unit/x"),
		dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	type anyJob struct {
		ID   uint32
		Path dbus.ObjectPath
	}
	for name, tt := range map[string]struct {
		job    anyJob
		kind   string
		policy string
		want   bool
	}{
		"restart":                          {job: anyJob{7, job}, kind: "restart", want: true},
		"stop":                             {job: anyJob{7, job}, kind: "stop", want: false},
		"stop overtaken by start":          {job: anyJob{7, job}, kind: "start", want: true},
		"signal":                           {job: anyJob{0, "/"}, policy: "on-failure", want: false},
		"signal but started again always":  {job: anyJob{0, "/"}, policy: "always", want: true},
		"signal but started after success": {job: anyJob{0, "/"}, policy: "on-success", want: true},
	} {
		t.Run(name, func(t *testing.T) {
			newBus(t, map[string]any{
				busPath + " GetUnitByPID":                                               unit,
				string(unit) + " org.freedesktop.systemd1.Unit.Job":                     tt.job,
				string(unit) + " org.freedesktop.systemd1.Service.Restart":              tt.policy,
				string(unit) + " org.freedesktop.systemd1.Service.NFileDescriptorStore": uint32(4),
				string(job) + " org.freedesktop.systemd1.Job.JobType":                   tt.kind,
			})
			if got, stored, err := Restarting(t.Context()); got != tt.want || stored != 4 || err != nil {
				t.Errorf("got %v, %d stored, %v; want %v, 4", got, stored, err, tt.want)
			}
		})
	}
}

// The job may end, and another one begin, while systemd is asked.
func TestJobThatHasEndedIsAskedForAgain(t *testing.T) {
	type anyJob struct {
		ID   uint32
		Path dbus.ObjectPath
	}
	for name, tt := range map[string]struct {
		last anyJob
		want bool
	}{"another": {anyJob{8, "/8"}, true}, "none": {anyJob{0, "/"}, false}} {
		t.Run(name, func(t *testing.T) {
			newBus(t, map[string]any{
				busPath + " GetUnitByPID":                                  dbus.ObjectPath("/x"),
				"/x org.freedesktop.systemd1.Unit.Job":                     []any{anyJob{7, "/7"}, tt.last},
				"/x org.freedesktop.systemd1.Service.Restart":              "on-failure",
				"/x org.freedesktop.systemd1.Service.NFileDescriptorStore": uint32(4),
				"/8 org.freedesktop.systemd1.Job.JobType":                  "restart",
			})
			if got, stored, err := Restarting(t.Context()); got != tt.want || stored != 4 || err != nil {
				t.Errorf("got %v, %d stored, %v; want %v, 4", got, stored, err, tt.want)
			}
		})
	}
}

func TestWithoutAnAnswerItIsARestart(t *testing.T) {
	want := func(t *testing.T, ctx context.Context, what string) {
		t.Helper()
		if again, stored, err := Restarting(ctx); !again || stored < 1000 || err == nil ||
			!strings.Contains(err.Error(), what) {
			t.Errorf("got %v, %v; want a restart, and %q", again, err, what)
		}
	}
	t.Run("no bus", func(t *testing.T) {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
		want(t, t.Context(), "no such file")
	})
	t.Run("no systemd", func(t *testing.T) {
		newBus(t, nil)
		want(t, t.Context(), "no answer to "+busPath)
	})
	t.Run("another answer than expected", func(t *testing.T) {
		newBus(t, map[string]any{busPath + " GetUnitByPID": dbus.ObjectPath("/x"),
			"/x org.freedesktop.systemd1.Unit.Job": "none"})
		want(t, t.Context(), "")
	})
	t.Run("silent bus", func(t *testing.T) {
		listenAsBus(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		want(t, ctx, "")
	})
}
