// What both pages use.

export const $ = id => document.getElementById(id)

export const SAMPLERS = {euler: 'Euler', heun: 'Heun', dpmpp_2m: 'DPM++(2M)', stochastic_heun: 'stochastic Heun'}

export const wholeNumber = input => Math.min(input.max, Math.max(0, Math.floor(+input.value)))

export const number = value => +Number(value).toPrecision(3) + ''

export function onInput(form, changed) {       // calls `changed` after each input; Enter does not send the form away
  form.addEventListener('input', changed)
  form.addEventListener('submit', event => { event.preventDefault(); changed() })
}

export function say(input, text) {             // what a slider stands for, for the eye and for a screen reader
  document.querySelector(`output[for="${input.id}"]`).textContent = text
  input.setAttribute('aria-valuetext', text)
}

export function choices(select, names) {       // {value: text}
  select.replaceChildren(...Object.entries(names).map(([value, text]) => new Option(text, value)))
}
