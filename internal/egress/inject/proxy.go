package inject

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
)

// ServeHTTP sends a request on with the credentials of its host's rules.
func (i *Injector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := r.Context().Value(flowKey{}).(*flow)
	if !i.enter() {
		return
	}
	defer i.tasks.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(i.ctx, cancel)()
	r = r.WithContext(ctx)
	if status, why := f.objection(r); why != "" {
		i.refuse(w, f, status, why)
		return
	}
	values := map[string]string{}
	var secrets []string
	for _, rule := range i.rules(f.host, f.to.Port(), f.plain) {
		value, secret, err := rule.value(r.Context(), i.cfg.Secrets)
		if err != nil {
			i.refuse(w, f, http.StatusBadGateway, err.Error())
			return
		}
		values[rule.Header] = value
		secrets = append(secrets, secret)
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", f.authority(), r.Host
			if f.plain {
				p.Out.URL.Scheme = "http"
			}
			p.Out.Header.Set("Accept-Encoding", "identity") // so that it can be looked through
			for name, value := range values {
				p.Out.Header.Set(name, value)
			}
		},
		Transport:     f.transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(res *http.Response) error {
			redactHeader(res.Header, secrets)
			if res.StatusCode != http.StatusSwitchingProtocols {
				res.Body = &redactedBody{newRedactor(&trailing{res, secrets, res.Body}, secrets), res.Body}
			}
			i.report(Event{Host: f.host, Status: res.StatusCode})
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			// What went wrong may have been said by whoever is there in the host's place.
			i.refuse(w, f, http.StatusBadGateway, "it cannot be reached, or is not who it should be")
		},
	}
	proxy.ServeHTTP(interim{w, secrets}, r)
}

// objection says why a request is not sent on, or returns "".
func (f *flow) objection(r *http.Request) (status int, why string) {
	switch {
	case r.Method == http.MethodTrace || r.Method == http.MethodConnect:
		return http.StatusMethodNotAllowed, "the method is not allowed"
	case r.URL.Host != "" || r.URL.Scheme != "":
		return http.StatusBadRequest, "this is no proxy"
	case hostOf(r.Host) != f.host || !f.hasPort(r.Host):
		return http.StatusMisdirectedRequest, "the request is for another host than the connection"
	}
	return 0, ""
}

// hasPort tells whether the port of a Host header, if it has one, is the flow's.
func (f *flow) hasPort(host string) bool {
	_, port, err := net.SplitHostPort(host)
	return err != nil || port == strconv.Itoa(int(f.to.Port()))
}

func (f *flow) authority() string { return net.JoinHostPort(f.host, strconv.Itoa(int(f.to.Port()))) }

func (i *Injector) refuse(w http.ResponseWriter, f *flow, status int, why string) {
	i.report(Event{Host: f.host, Refused: why})
	w.Header().Set("Connection", "close")
	http.Error(w, "aether: "+f.host+": "+why, status)
}

// trailing reads a body, and overwrites secrets in the trailer, which is there when the body has ended.
type trailing struct {
	res     *http.Response
	secrets []string
	body    io.Reader
}

func (t *trailing) Read(p []byte) (int, error) {
	n, err := t.body.Read(p)
	if err != nil {
		redactHeader(t.res.Trailer, t.secrets)
	}
	return n, err
}
