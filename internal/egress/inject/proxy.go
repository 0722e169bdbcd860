package inject

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync/atomic"
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
	rules, event := i.rules(f.host, f.to.Port(), f.plain), Event{Host: f.host, Method: methodOf(r)}
	for _, rule := range rules {
		if !slices.Contains(event.Secrets, rule.Secret) {
			event.Secrets = append(event.Secrets, rule.Secret)
		}
	}
	if status, why := f.objection(r); why != "" {
		i.refuse(w, event, status, why)
		return
	}
	values := map[string]string{}
	var secrets []string
	for _, rule := range rules {
		value, secret, err := rule.value(r.Context(), i.cfg.Secrets)
		if err != nil {
			event.Secrets = []string{rule.Secret}
			i.refuse(w, event, http.StatusBadGateway, err.Error())
			return
		}
		values[rule.Header] = value
		secrets = append(secrets, secret)
	}
	// Once there is a connection to the host, it may have got the credential, whatever happens then.
	var sent atomic.Bool
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}))
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
			event.Status = res.StatusCode
			i.report(event)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			// What went wrong may have been said by whoever is there in the host's place.
			const why = "it cannot be reached, or is not who it should be"
			switch {
			case !sent.Load():
				i.refuse(w, event, http.StatusBadGateway, why)
				return
			case event.Status == 0: // else that was reported
				i.report(event)
			}
			answerRefusal(w, f.host, http.StatusBadGateway, why)
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

func (i *Injector) refuse(w http.ResponseWriter, e Event, status int, why string) {
	e.Refused = why
	i.report(e)
	answerRefusal(w, e.Host, status, why)
}

func answerRefusal(w http.ResponseWriter, host string, status int, why string) {
	w.Header().Set("Connection", "close")
	http.Error(w, "aether: "+host+": "+why, status)
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
