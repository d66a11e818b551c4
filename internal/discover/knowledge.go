package discover

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const most = 256 // servers, and addresses of a host: what the network says is bounded

// knowledge is what the answers have said so far. DNS names are compared without regard to case.
type knowledge struct {
	instances map[string]*instance
	hosts     map[string][]netip.Addr
}

type instance struct {
	name string // as it was first written
	host string // empty: not known yet
	port uint16
	tls  bool
}

func newKnowledge() *knowledge {
	return &knowledge{make(map[string]*instance), make(map[string][]netip.Addr)}
}

// wanted is one question.
type wanted struct {
	name string
	kind dnsmessage.Type
}

func addressesOf(host string) []wanted {
	return []wanted{{host, dnsmessage.TypeA}, {host, dnsmessage.TypeAAAA}}
}

// question asks for servers, and for what is missing about those that are known.
func (k *knowledge) question() ([]byte, error) {
	list := []wanted{{service, dnsmessage.TypePTR}}
	for _, i := range k.instances {
		switch {
		case i.host == "":
			list = append(list, wanted{i.name, dnsmessage.TypeSRV}, wanted{i.name, dnsmessage.TypeTXT})
		case len(k.hosts[strings.ToLower(i.host)]) == 0:
			list = append(list, addressesOf(i.host)...)
		}
	}
	return pack(list...)
}

// pack makes a packet of questions.
func pack(list ...wanted) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	for _, w := range list {
		n, err := dnsmessage.NewName(w.name)
		if err != nil {
			continue // too long to be asked for
		}
		if err := b.Question(dnsmessage.Question{Name: n, Type: w.kind, Class: dnsmessage.ClassINET}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// learn reads an answer that came in over the interface zone. A damaged answer counts as far as it can be read.
func (k *knowledge) learn(packet []byte, zone string) {
	var p dnsmessage.Parser
	header, err := p.Start(packet)
	if err != nil || !header.Response || p.SkipAllQuestions() != nil {
		return
	}
	k.read(p.Answer, zone)
	if p.SkipAllAnswers() == nil && p.SkipAllAuthorities() == nil {
		k.read(p.Additional, zone)
	}
}

func (k *knowledge) read(next func() (dnsmessage.Resource, error), zone string) {
	for {
		r, err := next()
		if err != nil {
			return
		}
		name := r.Header.Name.String()
		switch body := r.Body.(type) {
		case *dnsmessage.PTRResource:
			if strings.EqualFold(name, service) {
				k.instance(body.PTR.String())
			}
		case *dnsmessage.SRVResource:
			// The target . means that the service is decidedly not available (RFC 2782).
			if i := k.instance(name); i != nil && body.Target.String() != "." {
				i.host, i.port = body.Target.String(), body.Port
			}
		case *dnsmessage.TXTResource:
			if i := k.instance(name); i != nil {
				i.tls = slices.Contains(body.TXT, "tls=1")
			}
		case *dnsmessage.AResource:
			k.address(name, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			ip := netip.AddrFrom16(body.AAAA)
			if ip.IsLinkLocalUnicast() {
				ip = ip.WithZone(zone)
			}
			k.address(name, ip)
		}
	}
}

// instance returns nil for a name that is no PiCloud server's, and for one server too many.
func (k *knowledge) instance(name string) *instance {
	folded := strings.ToLower(name)
	if !strings.HasSuffix(folded, "."+service) {
		return nil
	}
	i := k.instances[folded]
	if i == nil && len(k.instances) < most {
		i = &instance{name: name}
		k.instances[folded] = i
	}
	return i
}

func (k *knowledge) address(host string, ip netip.Addr) {
	host = strings.ToLower(host)
	known := k.hosts[host]
	if ip.Is4In6() || slices.Contains(known, ip) || len(known) >= most || known == nil && len(k.hosts) >= most {
		return
	}
	k.hosts[host] = append(known, ip)
}

// addresses are those of a host, IPv4 first.
func (k *knowledge) addresses(host string) []netip.Addr {
	list := slices.Clone(k.hosts[strings.ToLower(host)])
	slices.SortFunc(list, func(a, b netip.Addr) int { return a.Compare(b) }) // IPv4 is less
	return list
}

// servers lists those that can be reached.
func (k *knowledge) servers() []Server {
	var list []Server
	for _, i := range k.instances {
		if i.host == "" {
			continue
		}
		list = append(list, Server{i.name[:len(i.name)-len("."+service)], strings.TrimSuffix(i.host, "."), i.port,
			i.tls, k.addresses(i.host)})
	}
	slices.SortFunc(list, func(a, b Server) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Host, b.Host))
	})
	return list
}
