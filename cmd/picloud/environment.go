package main

import "strings"

// readEnvironment reads a file as systemd reads an EnvironmentFile= (systemd.exec(5)), which treats blanks, quotes and
// continued lines differently from a shell. systemd/picloud-generator reads PORT in the same way.
func readEnvironment(text string) map[string]string {
	e := envReader{values: make(map[string]string), step: (*envReader).start}
	for i := range len(text) {
		e.step(&e, text[i])
	}
	if e.assigned {
		e.assign()
	}
	return e.values
}

// An envReader reads such a file byte by byte; step handles the next byte.
type envReader struct {
	values      map[string]string
	step        func(*envReader, byte)
	name, value []byte
	blanks      []byte // after the value: they count only if more of it follows
	assigned    bool   // the = has been read
}

func ends(c byte) bool    { return c == '\n' || c == '\r' }
func isBlank(c byte) bool { return c == ' ' || c == '\t' || ends(c) }

func (e *envReader) assign() {
	e.values[strings.TrimRight(string(e.name), " \t")] = string(e.value)
	e.name, e.value, e.blanks, e.assigned = nil, nil, nil, false
	e.step = (*envReader).start
}

func (e *envReader) start(c byte) {
	switch {
	case c == '#' || c == ';':
		e.step = (*envReader).comment
	case !isBlank(c):
		e.name = []byte{c}
		e.step = (*envReader).inName
	}
}

// comment lasts until the end of the line, even after a \, as in systemd since 254.
func (e *envReader) comment(c byte) {
	if ends(c) {
		e.step = (*envReader).start
	}
}

func (e *envReader) inName(c byte) {
	switch {
	case ends(c):
		e.step = (*envReader).start
	case c == '=':
		e.assigned = true
		e.step = (*envReader).beforeValue
	default:
		e.name = append(e.name, c)
	}
}

// beforeValue is before the value's first character, or after a closing quote.
func (e *envReader) beforeValue(c byte) {
	switch {
	case ends(c):
		e.assign()
	case c == '\'':
		e.step = (*envReader).single
	case c == '"':
		e.step = (*envReader).double
	case !isBlank(c):
		e.step = (*envReader).inValue
		e.inValue(c)
	}
}

func (e *envReader) inValue(c byte) {
	switch {
	case ends(c):
		e.assign()
	case isBlank(c):
		e.blanks = append(e.blanks, c)
	default:
		e.value = append(e.value, e.blanks...)
		e.blanks = nil
		if c == '\\' {
			e.step = (*envReader).escaped
		} else {
			e.value = append(e.value, c)
		}
	}
}

// escaped is after a \, which removes a line ending.
func (e *envReader) escaped(c byte) {
	if !ends(c) {
		e.value = append(e.value, c)
	}
	e.step = (*envReader).inValue
}

func (e *envReader) single(c byte) {
	if c == '\'' {
		e.step = (*envReader).beforeValue
	} else {
		e.value = append(e.value, c)
	}
}

func (e *envReader) double(c byte) {
	switch c {
	case '"':
		e.step = (*envReader).beforeValue
	case '\\':
		e.step = (*envReader).escapedInDouble
	default:
		e.value = append(e.value, c)
	}
}

func (e *envReader) escapedInDouble(c byte) {
	switch c {
	case '"', '\\', '`', '$':
		e.value = append(e.value, c)
	case '\n':
	default:
		e.value = append(e.value, '\\', c)
	}
	e.step = (*envReader).double
}
