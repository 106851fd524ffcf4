"""The English words that :mod:`duologue.speech.endpoint` knows."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(phrase.strip() for phrase in text.split(","))


#: nothing ends with these: conjunctions, articles, prepositions that are no particles, auxiliaries, intensifiers
OPEN_ENDS = _words(
    """
    and or but because so that then whether if unless until although though while whereas than as nor plus
    the a an this these those every each some any no another both either neither
    to of for from with at by into onto about between among toward towards during without within against per via upon
    beside besides behind beneath below above under near after before since except like
    is are was were be been being am has have had do does did will would shall should can could may might must
    isn't aren't wasn't weren't i'm i'll i'd i've you're you'll you'd you've he's she's it's we're we'll we'd we've
    they're they'll they'd they've that's there's here's what's where's who's how's when's let's that'll it'll
    very really quite too rather almost nearly just only even also maybe perhaps probably
    not doesn't didn't won't wouldn't shouldn't couldn't mustn't haven't hasn't hadn't
    mr mrs ms dr versus
    """
)
#: auxiliaries that may end a short answer after a subject
CLOSED_AFTER_PRONOUN = _words(
    "do does did am is are was were have has had can could will would should don't doesn't didn't can't won't"
)
#: prepositions that also end phrasal verbs
PARTICLES = _words("on in off up out down over through around along across back away by")
PARTICLE_VERBS = _words(
    """
    turn turned turning switch switched put pick picked picking drop dropped hang hung log logged sign signed check
    checked come came coming go goes going went get got getting move hold give gave call called calling write wrote look
    looked head carry find found set shut slow speed show run ran start work wake fill let leave left bring brought take
    took taking send sent pull back figure knock close locked let's read cut moved still straight what where who which
    ring rang
    """
)
FILLERS = _words("um uh er erm hmm hm mm uhm umm ah eh well like so")
FILLER_PHRASES = _phrases(
    """you know, i mean, let me see, let me think, let's see, kind of, sort of, let me check, hold on, hang on,
    one second,
    one moment, just a second, just a moment, give me a second, wait a second let me, how do i say, what was it,
    what's it called, i'm not sure but, the thing is, how should i put it"""
)
#: at the end of more than two words these begin a correction
CORRECTIONS = _words("no wait sorry actually rather instead")
ANSWERS = _phrases(
    """yes, no, yeah, yep, yup, nope, nah, ok, okay, sure, right, correct, exactly, absolutely, definitely, fine, great,
    perfect, good, alright, all right, of course, please, yes please, no thanks, no thank you, yes i do, no i don't,
    that's right, that's correct, that's it, that's all, that's fine, that's wrong, sounds good, sounds great, got it,
    i see, i know, i do, i don't, i am, i did, i didn't, i can't, i will, i won't, not yet, not really, not at all,
    nothing, nothing else, none, never, maybe, uh-huh, mm-hmm, mhm, no problem, makes sense, i agree, i think so,
    i don't think so, i don't know, not sure, i'm not sure, never mind, nevermind, go ahead, sure thing, you bet,
    no worries, understood, agreed, done, all done, both, neither, either, either one, all of them, none of them,
    the first one, the second one, the last one, that one, this one, the other one, the one before"""
)
FAREWELLS = _phrases(
    """thanks, thank you, thanks a lot, thank you very much, thank you so much, cheers, bye, goodbye, good bye, bye bye,
    see you, see you later, talk to you later, have a nice day, have a good day, good night, take care, that's all,
    that will be all, that'll be all"""
)
COMMANDS = _phrases(
    """stop, wait, cancel, repeat, repeat that, again, say that again, go on, continue, next, back, go back, help,
    quiet,
    louder, slower, faster, pause, resume, start, mute, skip, undo, hello, hi, hey, hello there, good morning,
    good afternoon, good evening, come on, stop it, wait a minute, wait a second, stop there, be quiet, shut up,
    speak up, slow down, hurry up, what, pardon, sorry, excuse me, listen, done"""
)
#: prepositions that a question about a person may end with
STRANDED = _words("for to from with about")
SUBJECTS = _words("i he she we they")
DETERMINERS = _words("the a an this these those every each some any no another")
OBJECTS = _words("me him her us them you it")
GIVING = _words("tell give send show ask get bring let make help call find")
#: verbs that want a thing besides the person: "could you give me" is not done
HANDING = _words("tell give send show bring get")
POSSESSIVES = _words("my your his her its our their whose")
WH_ENDS = _words("what where when who which why how whom")
QUESTION_WORDS = _words("what where when who which why how whose what's where's who's how's when's whats wheres")
INVERTING = _words(
    """
    is are was were do does did can could will would shall should may might must have has had am
    isn't aren't wasn't don't doesn't didn't can't couldn't won't wouldn't shouldn't haven't hasn't
    """
)
#: auxiliaries that want a verb after their subject
VERB_OPENERS = _words("do does did can could will would shall should may might must")
SUBORDINATORS = _words("if when because while although though once unless since after before until whenever whereas as")
#: a sentence of one or two words that begins so goes on
FRAGMENT_STARTS = _words("i we they he she it there and but or so because the a an my your our to for with if")
#: statements of those who tell or read something aloud begin so; "I" and "my" are as often a request
TELLING = _words("he she we they it this that these those there it's that's he's she's we're they're there's")
FREQUENCIES = _words("ever never always often sometimes once twice rarely seldom")
#: verbs that want an object or a complement
NEEDS_OBJECT = _words(
    """
    want wants wanted need needs needed mark marked add added tell told ask asked give gave send sent take took bring
    brought put set get got make made show showed find found use used say says said think thinks thought believe guess
    mean means know knew see saw buy bought book booked order ordered schedule scheduled reserve reserved deliver
    delivered log logged note noted change changed update updated move moved remove removed delete deleted create
    created rename keep kept include included contain contains seem seems become becomes became having getting making
    taking going trying looking thinking wanting needing telling asking saying calling sending let lets wish hope
    suppose wonder wondering gonna wanna prefer like likes describe explain mention regarding concerning including
    called named
    """
)
#: after an article or a possessive these wait for their noun
MODIFIERS = _words(
    """
    next first second third fourth fifth new old big small large little long short good better best bad other same whole
    right wrong different main only single previous following current final red blue green black white nearest closest
    most more main entire early late big biggest smallest latest very own last several few many
    """
)
NUMBER_OPENERS = _words("number point dot plus minus hash dash slash code room flat apartment gate extension")
NUMBER_WORDS = _words("zero oh one two three four five six seven eight nine double triple")
